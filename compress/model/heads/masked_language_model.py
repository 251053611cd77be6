"""Scores of the tokens behind masks. B batch, N tokens, D hidden size, E width of the scores' map, V vocabulary."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from compress.model.activations import ACTIVATIONS, ActivationName
from compress.model.embed import Embed
from compress.model.head import Head, HeadSpec
from compress.model.norms import NormSpec
from compress.model.projection import Projection
from compress.model.sequence import Context


class TokenScoresSpec(HeadSpec):
    """h W + b, or `tied`, h table^T + b, with h = norm(act(x W1 + b1)) of size `width` (BERT, Devlin et al. 2019, arXiv
    1810.04805)."""

    kind: str
    vocab_size: PositiveInt
    width: PositiveInt
    activation: ActivationName
    norm: NormSpec
    dense_bias: bool = True
    tied: bool = True
    bias: bool = True


class MaskedLanguageModelSpec(TokenScoresSpec):
    """Scores of each token (B,N,V)."""

    each_token: ClassVar[bool] = True
    kind: Literal["masked-language-model"] = "masked-language-model"

    def build(self, hidden_size: int) -> MaskedLanguageModel:
        return MaskedLanguageModel(self, hidden_size)


class MaskedLanguageModel(Head):
    def __init__(self, spec: TokenScoresSpec, hidden_size: int) -> None:
        super().__init__()
        self.spec = spec
        self.dense = Projection(hidden_size, spec.width, bias=spec.dense_bias)
        self.norm = spec.norm.build(spec.width, loops=1)
        self.output = None if spec.tied else Projection(spec.width, spec.vocab_size, bias=spec.bias)
        self.bias_V = nn.Parameter(torch.zeros(spec.vocab_size)) if spec.tied and spec.bias else None

    def reader(self) -> Projection | None:
        """None where the table is the head's too: what turns or cuts the tokens' axes would change the scores."""
        return None if self.output is None else self.dense

    def forward(self, x_BND: Tensor, context: Context, embed: Embed) -> dict[str, Tensor]:
        hidden_BNE = self.norm(ACTIVATIONS[self.spec.activation](self.dense(x_BND)))
        scores_BNV = embed.logits(hidden_BNE) if self.output is None else self.output(hidden_BNE)
        return {"logits": scores_BNV if self.bias_V is None else scores_BNV + self.bias_V}
