"""Affine replacements of a feed-forward: full (x B + c), low-rank (x P R + c) and constant (c). R rank."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from compress.model.ffn import Ffn, FfnSpec
from compress.model.projection import Projection


class AffineSpec(FfnSpec):
    """y = x B + c; D^2 weights in place of the 2 D F of an MLP."""

    kind: Literal["affine"] = "affine"

    def build(self, hidden_size: int, loops: int) -> Affine:
        return Affine(hidden_size, loops)


class Affine(Ffn):
    def __init__(self, hidden_size: int, loops: int) -> None:
        super().__init__()
        self.map = Projection(hidden_size, hidden_size, loops=loops)

    def forward(self, x_BND: Tensor, loop: int) -> Tensor:
        return self.map(x_BND, loop)

    def readers(self) -> list[Projection]:
        return [self.map]


class LowRankAffineSpec(FfnSpec):
    """y = (x P) R + c with P (D x rank), R (rank x D); 2 D rank weights."""

    kind: Literal["low-rank-affine"] = "low-rank-affine"
    rank: PositiveInt

    def build(self, hidden_size: int, loops: int) -> LowRankAffine:
        return LowRankAffine(hidden_size, self.rank, loops)


class LowRankAffine(Ffn):
    def __init__(self, hidden_size: int, rank: int, loops: int) -> None:
        super().__init__()
        self.down = Projection(hidden_size, rank, bias=False, loops=loops)
        self.up = Projection(rank, hidden_size, loops=loops)

    def forward(self, x_BND: Tensor, loop: int) -> Tensor:
        return self.up(self.down(x_BND, loop), loop)

    def readers(self) -> list[Projection]:
        return [self.down]


class ConstantSpec(FfnSpec):
    """y = c, the mean of what was dropped (bias compensation)."""

    kind: Literal["constant"] = "constant"

    def build(self, hidden_size: int, loops: int) -> Constant:
        return Constant(hidden_size, loops)


class Constant(Ffn):
    def __init__(self, hidden_size: int, loops: int) -> None:
        super().__init__()
        self.value = nn.ParameterList([nn.Parameter(torch.zeros(hidden_size)) for _ in range(loops)])

    def forward(self, x_BND: Tensor, loop: int) -> Tensor:
        # One row that broadcasts over batch and tokens in the residual sum.
        return self.value[loop]

    def readers(self) -> list[Projection]:
        return []
