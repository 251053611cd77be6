"""What a mixer is: a map of a whole sequence, x (B,N,D) -> (B,N,D), and of a sequence chunk by chunk.

B batch, N tokens at hand, P tokens before them, M = P + N.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import PlainValidator
from torch import Tensor, nn

from compress.model.projection import Projection
from compress.model.sequence import Context
from compress.spec import AS_ITS_VARIANT, Part
from runtime.bundles.manifest import GROWING

#: The growing dimension of a cache.
PAST = GROWING


@dataclass(frozen=True)
class StateSpec:
    """A tensor that a mixer hands from chunk to chunk, FP32, batch first. `shape` leaves the batch out; the text PAST
    in it is a dimension that grows by a row a token (a cache), everything else keeps its size."""

    name: str
    shape: tuple[int | str, ...]

    @property
    def growing(self) -> tuple[int, ...]:
        """The axes of `shape` that grow."""
        return tuple(axis for axis, size in enumerate(self.shape) if size == PAST)

    @property
    def grows(self) -> bool:
        """Whether the state is a cache that grows with the sequence."""
        return bool(self.growing)


State = tuple[Tensor, ...]


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

    def state_spec(self) -> tuple[StateSpec, ...] | None:
        """What `chunk` hands on, in order; None for a mixer that looks ahead and has no chunk form."""
        return None

    def chunk(self, x_BND: Tensor, state: State, loop: int, context: Context) -> tuple[Tensor, State]:
        """The output for the next tokens of a sequence, and the state after them. Fresh state is zeros (empty where
        it grows). Feeding a sequence in any chunks gives what `forward` gives for the whole.
        """
        raise NotImplementedError

    def learned(self) -> list[nn.Parameter]:
        """The parameters that no softmax attention has: what is trained first when the mixer takes its place."""
        return []

    def readers(self) -> list[Projection] | None:
        """The projections that read the block's normed input, where a norm's gains can be folded; None when
        something else (a raw key or value) reads it too, so that folding is not possible."""
        raise NotImplementedError
