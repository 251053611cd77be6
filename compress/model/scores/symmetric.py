"""One projection for query and key. B batch, N tokens, D hidden size, H heads, K query/key size."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from compress.model.attention import Scores, ScoresSpec, split_heads
from compress.model.projection import Projection
from compress.model.sequence import Context


class SymmetricScoresSpec(ScoresSpec):
    """logit_ij = (u_i * s_h + b_h) . u_j with u = x U_h and fixed signs s_h in {-1, +1}^K: M_h = U diag(s) U^T is
    any symmetric matrix of rank K, definite or not."""

    kind: Literal["symmetric"] = "symmetric"
    num_heads: PositiveInt
    head_dim: PositiveInt

    def build(self, hidden_size: int, loops: int) -> SymmetricScores:
        return SymmetricScores(self, hidden_size, loops)


class SymmetricScores(Scores):
    signs_HK: Tensor

    def __init__(self, spec: SymmetricScoresSpec, hidden_size: int, loops: int) -> None:
        super().__init__()
        self.spec = spec
        self.shared = Projection(hidden_size, spec.num_heads * spec.head_dim, bias=False, loops=loops)
        self.offset = nn.ParameterList([nn.Parameter(torch.zeros(spec.num_heads, spec.head_dim)) for _ in range(loops)])
        self.register_buffer("signs_HK", torch.ones(spec.num_heads, spec.head_dim))

    def forward(self, x_BND: Tensor, loop: int, context: Context) -> tuple[Tensor, Tensor]:
        u_BHNK = split_heads(self.shared(x_BND, loop), self.spec.num_heads)
        return u_BHNK * self.signs_HK[:, None] + self.offset[loop][:, None], u_BHNK

    def key_shape(self, hidden_size: int) -> tuple[int, int]:
        return self.spec.num_heads, self.spec.head_dim

    def readers(self) -> list[Projection]:
        return [self.shared]
