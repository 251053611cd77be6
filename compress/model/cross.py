"""What a cross-attention is: each token of a decoder reads what a block keeps of an encoder's tokens.

B batch, N tokens of the decoder, S tokens of the encoder, D hidden size, H heads, K query/key size.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import PlainValidator
from torch import Tensor, nn

from compress.model import scores as _scores  # noqa: F401  (registers the kinds)
from compress.model import values as _values  # noqa: F401
from compress.model.mixer import StateSpec
from compress.model.projection import Projection
from compress.model.scores.projected import ProjectedScoresSpec
from compress.model.sequence import Context, Memory
from compress.model.values.projected import ProjectedValuesSpec
from compress.spec import AS_ITS_VARIANT, Part

#: The dynamic dimension of what is kept of each token of the source.
SOURCE = "length"


class CrossSpec(Part):
    """`scores`: queries of the decoder's tokens, keys of the encoder's; `values`: of the encoder's."""

    kind: str
    scores: ProjectedScoresSpec
    values: ProjectedValuesSpec

    def build(self, hidden_size: int, loops: int) -> Cross:
        raise NotImplementedError


AnyCross = Annotated[CrossSpec, PlainValidator(CrossSpec.parse), AS_ITS_VARIANT]


class Cross(nn.Module):
    """A map of the decoder's tokens (B,N,D) -> (B,N,D) that reads a memory."""

    def __init__(self, spec: CrossSpec, hidden_size: int, loops: int) -> None:
        super().__init__()
        self.scores = spec.scores.build(hidden_size, loops)
        self.values = spec.values.build(hidden_size, spec.scores.num_heads, loops)

    def forward(self, x_BND: Tensor, loop: int, context: Context) -> Tensor:
        memory = context.memory
        assert memory is not None, "a cross-attention needs a memory"
        kept = self.keep(memory, loop) if memory.kept is None else memory.kept
        return self.read(x_BND, loop, kept, memory.mask_BS)

    def keep(self, memory: Memory, loop: int) -> tuple[Tensor, ...]:
        """What of the encoder's tokens the steps of the decoder read, made once a sentence."""
        raise NotImplementedError

    def read(self, x_BND: Tensor, loop: int, kept: tuple[Tensor, ...], mask_BS: Tensor | None) -> Tensor:
        """The output for the tokens at hand from what `keep` gave."""
        raise NotImplementedError

    def kept_spec(self) -> tuple[StateSpec, ...]:
        """What `keep` gives, in order; SOURCE in a shape is a dimension with a row for each token of the source."""
        raise NotImplementedError

    def attention(self, x_BND: Tensor, loop: int, context: Context) -> Tensor:
        """The attention rows (B,H,N,S) for the same arguments as `forward`."""
        raise NotImplementedError

    def readers(self) -> list[Projection]:
        """The projections that read the decoder's normed tokens, where a norm's gains can be folded."""
        return [self.scores.query]

    def learned(self) -> list[nn.Parameter]:
        """See `Mixer.learned`."""
        return []
