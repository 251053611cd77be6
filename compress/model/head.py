"""Heads: from the last tokens (B,N,D) to what the model is asked for. C classes."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import PlainValidator, PositiveInt
from torch import Tensor, nn

from compress.model.mixer import Context
from compress.model.projection import Projection
from compress.spec import AS_ITS_VARIANT, Part

Pool = Literal["cls", "mean", "patch-mean", "distillation"]


class HeadSpec(Part):
    kind: str

    def build(self, hidden_size: int) -> Head:
        raise NotImplementedError


AnyHead = Annotated[HeadSpec, PlainValidator(HeadSpec.parse), AS_ITS_VARIANT]


class Head(nn.Module):
    #: The projection that reads the final norm directly, where its gains can be folded; None if there is none.
    output: Projection

    def select(self, x_BND: Tensor) -> Tensor:
        """The tokens that the head will read, so that the final norm works on no others."""
        return x_BND

    def forward(self, x_BND: Tensor, context: Context) -> Tensor:
        """`x`: the selected tokens, after the final norm."""
        raise NotImplementedError


class ClassifierSpec(HeadSpec):
    """logits = concat(pooled tokens) W + b. Pools: `cls` the first token, `distillation` the second (DeiT),
    `mean` all tokens, `patch-mean` all but the first (DINOv2)."""

    kind: Literal["classifier"] = "classifier"
    num_labels: PositiveInt
    pools: tuple[Pool, ...] = ("cls",)
    bias: bool = True

    @property
    def tokens(self) -> int | None:
        """How many leading tokens the pools read; None if they read all."""
        if any(pool.endswith("mean") for pool in self.pools):
            return None
        return 2 if "distillation" in self.pools else 1

    def build(self, hidden_size: int) -> Classifier:
        return Classifier(self, hidden_size)


class Classifier(Head):
    def __init__(self, spec: ClassifierSpec, hidden_size: int) -> None:
        super().__init__()
        self.pools = spec.pools
        self.tokens = spec.tokens
        self.output = Projection(len(spec.pools) * hidden_size, spec.num_labels, bias=spec.bias)

    def select(self, x_BND: Tensor) -> Tensor:
        return x_BND[:, : self.tokens]

    def forward(self, x_BND: Tensor, context: Context) -> Tensor:
        return self.output(torch.cat([_pool(x_BND, pool) for pool in self.pools], dim=-1))


def _pool(x_BND: Tensor, pool: Pool) -> Tensor:
    if pool == "mean":
        return x_BND.mean(dim=1)
    if pool == "patch-mean":
        return x_BND[:, 1:].mean(dim=1)
    return x_BND[:, 0 if pool == "cls" else 1]
