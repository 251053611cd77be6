"""Merged query and key: the keys are the tokens themselves. B batch, N tokens, D hidden size, H heads."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt
from torch import Tensor

from compress.model.attention import Scores, ScoresSpec, split_heads
from compress.model.projection import Projection
from compress.model.sequence import Context


class MergedScoresSpec(ScoresSpec):
    """logit_ij = (x_i M_h + c_h) . x_j with M_h (D x D) = scale Wq_h Wk_h^T and c_h (D) = scale Wk_h bq_h
    (Bermeitinger et al. 2024, arXiv 2410.13732). A decoder caches x alone."""

    kind: Literal["merged"] = "merged"
    num_heads: PositiveInt

    @property
    def key_heads(self) -> int:
        return 1

    def build(self, hidden_size: int, loops: int) -> MergedScores:
        return MergedScores(self, hidden_size, loops)


class MergedScores(Scores):
    def __init__(self, spec: MergedScoresSpec, hidden_size: int, loops: int) -> None:
        super().__init__()
        self.num_heads = spec.num_heads
        self.query = Projection(hidden_size, spec.num_heads * hidden_size, loops=loops)

    def forward(self, x_BND: Tensor, loop: int, context: Context) -> tuple[Tensor, Tensor]:
        return split_heads(self.query(x_BND, loop), self.num_heads), x_BND[:, None]

    def key_shape(self, hidden_size: int) -> tuple[int, int]:
        return 1, hidden_size

    def readers(self) -> None:
        return None
