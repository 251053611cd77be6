"""What a head is: a map from the last tokens (B,N,D) to what the model is asked for. One file a kind in `heads`."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import PlainValidator
from torch import Tensor, nn

from compress.model.embed import Embed
from compress.model.projection import Projection
from compress.model.sequence import Context
from compress.spec import AS_ITS_VARIANT, Part


class HeadSpec(Part):
    #: Whether the answer has a part for each token, so that none may go.
    each_token: ClassVar[bool] = False
    kind: str

    @property
    def tokens(self) -> int | None:
        """How many leading tokens the answer is made of; None if it is made of all."""
        return None

    @property
    def tapped(self) -> tuple[int, ...]:
        """The original's layers whose tokens the head reads, behind each other; () if those of the last block alone."""
        return ()

    def build(self, hidden_size: int) -> Head:
        raise NotImplementedError


AnyHead = Annotated[HeadSpec, PlainValidator(HeadSpec.parse), AS_ITS_VARIANT]


class Head(nn.Module):
    #: Names of what comes out, in exported graphs; see `answer`.
    outputs: ClassVar[tuple[str, ...]] = ("logits",)
    #: Names of what `keep` gives.
    kept: ClassVar[tuple[str, ...]] = ()

    def reader(self) -> Projection | None:
        """The projection that reads the (pooled) final norm, where its gains can be folded; None if there is none."""
        return None

    def select(self, x_BND: Tensor) -> Tensor:
        """The tokens that the head will read, so that the final norm works on no others."""
        return x_BND

    def keep(self, source: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is read of a source at every step of a decoder, made once a source. `source`: `input_ids` and
        `attention_mask` (B,S)."""
        return {}

    def chunk_inputs(self) -> dict[str, Tensor]:
        """Examples of what the head is given beside tokens where these are fed in chunks: of one dimension each, which
        is dynamic and has the input's name."""
        return {}

    def answer(self, outputs: dict[str, Tensor]) -> Tensor:
        """What is healed and judged of what comes out: the first of it."""
        return outputs[self.outputs[0]]

    def forward(self, x_BND: Tensor, context: Context, embed: Embed) -> dict[str, Tensor]:
        """Each of `outputs` by its name, in their order. `x`: the selected tokens, after the final norm. `embed`: whose
        table a tied head reads."""
        raise NotImplementedError

    def from_inputs(
        self, x_BND: Tensor, context: Context, embed: Embed, inputs: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """What `forward` gives; for heads that read something of the model's inputs, too."""
        given: dict[str, Tensor] = self(x_BND, context, embed)
        return given
