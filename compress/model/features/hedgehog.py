"""The learned softmax maps of Hedgehog. H heads, G key heads, K query/key size, F features."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from compress.model.linear.feature import FeatureMap, FeatureMapSpec, per_head


class HedgehogSpec(FeatureMapSpec):
    """phi(x) = [softmax(x W), softmax(-x W)] with W (K x size/2), one for each head's queries and one for each key
    head: two softmaxes over features, as in LoLCATs (Zhang et al. 2024, arXiv 2402.04347 and 2410.10254).
    `size`: the features of both halves together, 2 K if not given."""

    kind: Literal["hedgehog"] = "hedgehog"
    size: PositiveInt | None = None

    def features(self, head_dim: int) -> int:
        return 2 * self._half(head_dim)

    def _half(self, head_dim: int) -> int:
        return head_dim if self.size is None else max(1, self.size // 2)

    def build(self, num_heads: int, num_kv_heads: int, head_dim: int) -> Hedgehog:
        return Hedgehog(num_heads, num_kv_heads, head_dim, self._half(head_dim))


class Hedgehog(FeatureMap):
    def __init__(self, num_heads: int, num_kv_heads: int, head_dim: int, half: int) -> None:
        super().__init__()
        self.query_HKF = nn.Parameter(torch.zeros(num_heads, head_dim, half))
        self.key_GKF = nn.Parameter(torch.zeros(num_kv_heads, head_dim, half))

    def query(self, q_BHNK: Tensor) -> Tensor:
        return _both(per_head(q_BHNK, self.query_HKF))

    def key(self, k_BGNK: Tensor) -> Tensor:
        return _both(per_head(k_BGNK, self.key_GKF))

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """The identity, and random directions for features beyond the size of a head."""
        _, size, half = self.key_GKF.shape
        start_KF = torch.randn(size, half, generator=generator) * size**-0.5
        start_KF[:, :size] = torch.eye(size, half)[:, :size]
        self.query_HKF.copy_(start_KF.expand_as(self.query_HKF))
        self.key_GKF.copy_(start_KF.expand_as(self.key_GKF))


def _both(x_BHNF: Tensor) -> Tensor:
    return torch.cat([x_BHNF.softmax(dim=-1), (-x_BHNF).softmax(dim=-1)], dim=-1)
