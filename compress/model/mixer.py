"""What a mixer is: a map of a whole sequence, x (B,N,D) -> (B,N,D)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import PlainValidator
from torch import Tensor, nn

from compress.model.projection import Projection
from compress.spec import AS_ITS_VARIANT, Part


@dataclass(frozen=True)
class Context:
    """What a sequence carries besides its tokens. `mask_BN`: True at real tokens; None means all are real.
    `rows`: only the first so many tokens are asked for as output; None means all."""

    mask_BN: Tensor | None = None
    rows: int | None = None


class MixerSpec(Part):
    kind: str

    def build(self, hidden_size: int, loops: int) -> Mixer:
        raise NotImplementedError


AnyMixer = Annotated[MixerSpec, PlainValidator(MixerSpec.parse), AS_ITS_VARIANT]


class Mixer(nn.Module):
    def forward(self, x_BND: Tensor, loop: int, context: Context) -> Tensor:
        raise NotImplementedError

    def attention(self, x_BND: Tensor, loop: int, context: Context) -> Tensor | None:
        """The attention rows (B,H,N,M) for the same arguments as `forward`; None for a mixer that has none."""
        return None

    def readers(self) -> list[Projection] | None:
        """The projections that read the block's normed input, where a norm's gains can be folded; None when
        something else (a raw key or value) reads it too, so that folding is not possible."""
        raise NotImplementedError
