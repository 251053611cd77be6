"""What an embedding is: a map from what a user feeds in to tokens (B,N,D). One file a kind in `embeds`.

B batch, N tokens, D hidden size, C numbers of a token that is not an id, V vocabulary.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import PlainValidator
from torch import Tensor, nn

from compress.model.sequence import Context
from compress.spec import AS_ITS_VARIANT, Part
from targets.errors import InputError


class EmbedSpec(Part):
    kind: str

    def sequence(self, batch: int, tokens: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Random tokens (B,N) or (B,N,C) by the name of the input that they come in. Raises InputError for an embedding
        that reads no sequences."""
        raise InputError(f"a model with the embedding {self.kind} reads no sequences, so it has no recurrent form")

    def build(self, hidden_size: int) -> Embed:
        raise NotImplementedError


AnyEmbed = Annotated[EmbedSpec, PlainValidator(EmbedSpec.parse), AS_ITS_VARIANT]


class Embed(nn.Module):
    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Context]:
        raise NotImplementedError

    def logits(self, x_BND: Tensor, words_U: Tensor | None = None) -> Tensor:
        """Scores of the vocabulary (B,N,V), or of some of its words (B,N,U), with the table of the embedding: what a
        tied head gives."""
        raise NotImplementedError
