"""What stands around a backend: it has the backend's names and declares what the backend does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtime.backends import Loaded

if TYPE_CHECKING:
    from runtime.bundles.manifest import Tensor


@dataclass(frozen=True)
class Around:
    """The backend `of`; what sees its calls adds `run`."""

    of: Loaded

    @property
    def provider(self) -> str:
        """What computes."""
        return self.of.provider

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """As the model declares them."""
        return self.of.inputs

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """As the model declares them."""
        return self.of.outputs
