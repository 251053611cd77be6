"""Scores of the next token. B batch, N tokens, D hidden size, V vocabulary."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from compress.model.embed import Embed
from compress.model.head import Head, HeadSpec
from compress.model.projection import Projection
from compress.model.sequence import Context


class LanguageModelSpec(HeadSpec):
    """Scores of the next token (B,N,V): x W + b, or `tied`, x table^T + b. With `cap` they become
    cap tanh(score / cap)."""

    each_token: ClassVar[bool] = True
    kind: Literal["language-model"] = "language-model"
    vocab_size: PositiveInt
    tied: bool = True
    bias: bool = False
    cap: PositiveFloat | None = None

    def build(self, hidden_size: int) -> LanguageModel:
        return LanguageModel(self, hidden_size)


class LanguageModel(Head):
    def __init__(self, spec: LanguageModelSpec, hidden_size: int) -> None:
        super().__init__()
        self.cap = spec.cap
        self.output = None if spec.tied else Projection(hidden_size, spec.vocab_size, bias=spec.bias)
        self.bias_V = nn.Parameter(torch.zeros(spec.vocab_size)) if spec.tied and spec.bias else None

    def reader(self) -> Projection | None:
        return self.output

    def forward(self, x_BND: Tensor, context: Context, embed: Embed) -> dict[str, Tensor]:
        scores_BNV = embed.logits(x_BND) if self.output is None else self.output(x_BND)
        if self.bias_V is not None:
            scores_BNV = scores_BNV + self.bias_V
        return {"logits": self.capped(scores_BNV)}

    def capped(self, scores: Tensor) -> Tensor:
        """Scores of any shape as logits."""
        return scores if self.cap is None else (scores / self.cap).tanh() * self.cap
