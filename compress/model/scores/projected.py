"""Queries and keys from projections of their own: the original transformer's logits.

B batch, N tokens, D hidden size, H heads, G key heads, K query/key size.
"""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt, model_validator
from torch import Tensor

from compress.model.attention import Scores, ScoresSpec, split_heads
from compress.model.norms import Norm, NormSpec
from compress.model.projection import Projection
from compress.model.rope import AnyRope, rotate
from compress.model.sequence import Context


class ProjectedScoresSpec(ScoresSpec):
    """logit_ij = scale * (x_i Wq_h + bq_h) . (x_j Wk_g + bk_g). `norm`: queries and keys are normed, each with gains of
    its own, before they turn: those of a head (Qwen3) or, with `whole`, of all heads together (OLMo 2)."""

    kind: Literal["projected"] = "projected"
    num_heads: PositiveInt
    num_kv_heads: PositiveInt
    head_dim: PositiveInt
    scale: float
    query_bias: bool = True
    key_bias: bool = True
    rope: AnyRope | None = None
    norm: NormSpec | None = None
    whole: bool = False

    @model_validator(mode="after")
    def _heads_divide(self) -> ProjectedScoresSpec:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")
        return self

    @property
    def key_heads(self) -> int:
        return self.num_kv_heads

    def build(self, hidden_size: int, loops: int) -> ProjectedScores:
        return ProjectedScores(self, hidden_size, loops)


class ProjectedScores(Scores):
    def __init__(self, spec: ProjectedScoresSpec, hidden_size: int, loops: int) -> None:
        super().__init__()
        self.spec = spec
        query_width, key_width = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
        self.query = Projection(hidden_size, query_width, bias=spec.query_bias, loops=loops)
        self.key = Projection(hidden_size, key_width, bias=spec.key_bias, loops=loops)
        self.query_norm: Norm | None = None
        self.key_norm: Norm | None = None
        if spec.norm is not None:
            self.query_norm = spec.norm.build(query_width if spec.whole else spec.head_dim, loops)
            self.key_norm = spec.norm.build(key_width if spec.whole else spec.head_dim, loops)

    def forward(self, x_BND: Tensor, loop: int, context: Context) -> tuple[Tensor, Tensor]:
        q_BHNK = self._heads(self.query(x_BND, loop), self.spec.num_heads, self.query_norm, loop)
        k_BGNK = self.keys(x_BND, loop)
        if self.spec.rope is not None:
            places_BN = context.places_BN(x_BND)
            q_BHNK = rotate(q_BHNK, places_BN, self.spec.rope)
            k_BGNK = rotate(k_BGNK, places_BN, self.spec.rope)
        return q_BHNK * self.spec.scale, k_BGNK

    def queries(self, x_BND: Tensor, loop: int) -> Tensor:
        """Scaled queries (B,H,N,K) without rotary positions."""
        return self._heads(self.query(x_BND, loop), self.spec.num_heads, self.query_norm, loop) * self.spec.scale

    def keys(self, x_BND: Tensor, loop: int) -> Tensor:
        """Keys (B,G,N,K) without rotary positions."""
        return self._heads(self.key(x_BND, loop), self.spec.num_kv_heads, self.key_norm, loop)

    def _heads(self, x_BNW: Tensor, heads: int, norm: Norm | None, loop: int) -> Tensor:
        if norm is None:
            return split_heads(x_BNW, heads)
        return split_heads(norm(x_BNW, loop), heads) if self.spec.whole else norm(split_heads(x_BNW, heads), loop)

    def key_shape(self, hidden_size: int) -> tuple[int, int]:
        return self.spec.num_kv_heads, self.spec.head_dim

    def readers(self) -> list[Projection]:
        return [self.query, self.key]
