"""Classes of tokens. B batch, N tokens, D hidden size, C classes."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import PositiveInt
from torch import Tensor

from compress.model.activations import ACTIVATIONS, ActivationName
from compress.model.embed import Embed
from compress.model.head import Head, HeadSpec
from compress.model.norms import NormSpec
from compress.model.projection import Projection
from compress.model.sequence import Context


class EachTokenSpec(HeadSpec):
    """Numbers of each token: x W + b, with x through norm(act(x W1 + b1)) of the hidden size first where `hidden`
    (ModernBERT with a norm, ELECTRA's discriminator without)."""

    each_token: ClassVar[bool] = True
    kind: str
    bias: bool = True
    hidden: ActivationName | None = None
    hidden_bias: bool = True
    hidden_norm: NormSpec | None = None


class TokenClassifierSpec(EachTokenSpec):
    """logits (B,N,C) of each token."""

    kind: Literal["token-classifier"] = "token-classifier"
    num_labels: PositiveInt

    def build(self, hidden_size: int) -> TokenClassifier:
        return TokenClassifier(self, hidden_size, self.num_labels)


class EachToken(Head):
    """Some numbers of each token."""

    def __init__(self, spec: EachTokenSpec, hidden_size: int, numbers: int) -> None:
        super().__init__()
        self.activation = spec.hidden
        self.hidden = Projection(hidden_size, hidden_size, bias=spec.hidden_bias) if spec.hidden else None
        self.hidden_norm = spec.hidden_norm.build(hidden_size, loops=1) if spec.hidden_norm else None
        self.output = Projection(hidden_size, numbers, bias=spec.bias)

    def reader(self) -> Projection:
        return self.hidden or self.output

    def numbers(self, x_BND: Tensor) -> Tensor:
        """(B,N,C)."""
        if self.hidden is not None and self.activation is not None:
            x_BND = ACTIVATIONS[self.activation](self.hidden(x_BND))
        return self.output(x_BND if self.hidden_norm is None else self.hidden_norm(x_BND))


class TokenClassifier(EachToken):
    def forward(self, x_BND: Tensor, context: Context, embed: Embed) -> dict[str, Tensor]:
        return {"logits": self.numbers(x_BND)}
