"""Classes of tokens. B batch, N tokens, D hidden size, C classes."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import PositiveInt
from torch import Tensor

from compress.model.embed import Embed
from compress.model.head import Head, HeadSpec
from compress.model.projection import Projection
from compress.model.sequence import Context


class TokenClassifierSpec(HeadSpec):
    """logits (B,N,C) of each token: x W + b."""

    each_token: ClassVar[bool] = True
    kind: Literal["token-classifier"] = "token-classifier"
    num_labels: PositiveInt
    bias: bool = True

    def build(self, hidden_size: int) -> TokenClassifier:
        return TokenClassifier(self, hidden_size)


class TokenClassifier(Head):
    def __init__(self, spec: TokenClassifierSpec, hidden_size: int) -> None:
        super().__init__()
        self.output = Projection(hidden_size, spec.num_labels, bias=spec.bias)

    def reader(self) -> Projection:
        return self.output

    def forward(self, x_BND: Tensor, context: Context, embed: Embed) -> dict[str, Tensor]:
        return {"logits": self.output(x_BND)}
