"""A sparse vector per sequence, as wide as the vocabulary. B batch, N tokens, D hidden size, V vocabulary."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from compress.model.embed import Embed
from compress.model.heads.masked_language_model import MaskedLanguageModel, TokenScoresSpec
from compress.model.pooling import pooled
from compress.model.sequence import Context


class SpladeSpec(TokenScoresSpec):
    """log(1 + relu(s)) of the scores s that a masked language model gives the vocabulary, of each the largest over the
    real tokens (B,V) (SPLADE, Formal et al. 2021, arXiv 2109.10086)."""

    kind: Literal["splade"] = "splade"

    def build(self, hidden_size: int) -> Splade:
        return Splade(self, hidden_size)


class Splade(MaskedLanguageModel):
    outputs = ("sentence_embedding",)

    def forward(self, x_BND: Tensor, context: Context, embed: Embed) -> dict[str, Tensor]:
        scores_BNV = super().forward(x_BND, context, embed)["logits"]
        return {self.outputs[0]: pooled(torch.log1p(scores_BNV.relu()), "max", context)}
