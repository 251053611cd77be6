"""Values through a diagonal and a low-rank map per head. D hidden size, H heads, R rank."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from compress.model.attention import Look, Values, ValuesSpec, attend, join_heads, split_heads
from compress.model.projection import Projection


class DiagonalLowRankSpec(ValuesSpec):
    """y = sum_h A_h (x * a_h + (x P_h) R_h) + b with a_h (D), P_h (D x R), R_h (R x D): the value-output matrix
    W_vo,h is kept as diag(a_h) + P_h R_h."""

    kind: Literal["diagonal-low-rank"] = "diagonal-low-rank"
    rank: PositiveInt

    def build(self, hidden_size: int, num_heads: int, loops: int) -> DiagonalLowRank:
        return DiagonalLowRank(self, hidden_size, num_heads, loops)


class DiagonalLowRank(Values):
    def __init__(self, spec: DiagonalLowRankSpec, hidden_size: int, num_heads: int, loops: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.gates = nn.ParameterList([nn.Parameter(torch.zeros(num_heads, hidden_size)) for _ in range(loops)])
        self.value = Projection(hidden_size, num_heads * spec.rank, bias=False, loops=loops)
        self.output = Projection(num_heads * spec.rank, hidden_size, loops=loops)

    def carry(self, x_BMD: Tensor, loop: int) -> Tensor:
        low_BHMR = split_heads(self.value(x_BMD, loop), self.num_heads)
        full_BHMD = x_BMD[:, None] * self.gates[loop][:, None]
        return torch.cat([low_BHMR, full_BHMD], dim=-1)

    def carried_shape(self, hidden_size: int) -> tuple[int, int]:
        return self.num_heads, self.value.weight.shape[0] // self.num_heads + hidden_size

    def mix(self, q_BHNK: Tensor, k_BGMK: Tensor, v_BGMV: Tensor, look: Look, loop: int) -> Tensor:
        mixed_BHNV = attend(q_BHNK, k_BGMK, v_BGMV, look)
        rank = self.value.weight.shape[0] // self.num_heads
        return mixed_BHNV[..., rank:].sum(dim=1) + self.output(join_heads(mixed_BHNV[..., :rank]), loop)

    def readers(self) -> None:
        return None
