"""A classifier of sequences. B batch, N tokens, D hidden size, P width of what is pooled."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from compress.model.activations import ACTIVATIONS, ActivationName
from compress.model.embed import Embed
from compress.model.head import Head, HeadSpec
from compress.model.norms import NormSpec
from compress.model.pooling import Pool, pooled
from compress.model.projection import Projection
from compress.model.sequence import Context


class ClassifierSpec(HeadSpec):
    """logits = concat(pooled tokens) W + b, with `hidden` through act(concat W1 + b1) of the hidden size first (BERT's
    pooler), and through a norm behind it (ModernBERT). `pool_norm`: of what is pooled (BEiT, AST). Pools: see `pooled`;
    `prefix`: how many tokens in front are not patches."""

    kind: Literal["classifier"] = "classifier"
    num_labels: PositiveInt
    pools: tuple[Pool, ...] = ("cls",)
    bias: bool = True
    hidden: ActivationName | None = None
    hidden_bias: bool = True
    hidden_norm: NormSpec | None = None
    pool_norm: NormSpec | None = None
    prefix: NonNegativeInt = 1

    @property
    def tokens(self) -> int | None:
        read = {"cls": 1, "distillation": 2, "prefix-mean": self.prefix}
        counts = [read.get(pool) for pool in self.pools]
        return None if None in counts else max(count for count in counts if count is not None)

    def build(self, hidden_size: int) -> Classifier:
        return Classifier(self, hidden_size)


class Classifier(Head):
    def __init__(self, spec: ClassifierSpec, hidden_size: int) -> None:
        super().__init__()
        self.spec = spec
        self.tokens = spec.tokens
        width = len(spec.pools) * hidden_size
        self.pool_norm = spec.pool_norm.build(width, loops=1) if spec.pool_norm else None
        self.hidden = Projection(width, hidden_size, bias=spec.hidden_bias) if spec.hidden else None
        self.hidden_norm = spec.hidden_norm.build(hidden_size, loops=1) if spec.hidden_norm else None
        self.output = Projection(hidden_size if spec.hidden else width, spec.num_labels, bias=spec.bias)

    def reader(self) -> Projection | None:
        return None if self.pool_norm is not None else self.hidden or self.output

    def select(self, x_BND: Tensor) -> Tensor:
        return x_BND[:, : self.tokens]

    def forward(self, x_BND: Tensor, context: Context, embed: Embed) -> dict[str, Tensor]:
        pooled_BP = torch.cat([pooled(x_BND, pool, context, self.spec.prefix) for pool in self.spec.pools], dim=-1)
        if self.pool_norm is not None:
            pooled_BP = self.pool_norm(pooled_BP)
        if self.hidden is not None and self.spec.hidden is not None:
            pooled_BP = ACTIVATIONS[self.spec.hidden](self.hidden(pooled_BP))
        if self.hidden_norm is not None:
            pooled_BP = self.hidden_norm(pooled_BP)
        return {"logits": self.output(pooled_BP)}
