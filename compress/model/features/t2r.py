"""The learned map of T2R. G key heads, K query/key size, F features."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from compress.model.linear.feature import FeatureMap, FeatureMapSpec, per_head


class T2rSpec(FeatureMapSpec):
    """phi(x) = relu(x W_g + b_g) with W_g (K x F), one map per key head, for its keys and its queries alike (Kasai et
    al. 2021, arXiv 2103.13076)."""

    kind: Literal["t2r"] = "t2r"
    size: PositiveInt = 32

    def features(self, head_dim: int) -> int:
        return self.size

    def build(self, num_heads: int, num_kv_heads: int, head_dim: int) -> T2r:
        return T2r(self, num_kv_heads, head_dim)


class T2r(FeatureMap):
    def __init__(self, spec: T2rSpec, num_kv_heads: int, head_dim: int) -> None:
        super().__init__()
        self.weight_GKF = nn.Parameter(torch.zeros(num_kv_heads, head_dim, spec.size))
        self.bias_GF = nn.Parameter(torch.zeros(num_kv_heads, spec.size))

    def query(self, q_BHNK: Tensor) -> Tensor:
        repeats = q_BHNK.shape[1] // self.bias_GF.shape[0]
        bias_HF = self.bias_GF.repeat_interleave(repeats, dim=0)
        return (per_head(q_BHNK, self.weight_GKF) + bias_HF[:, None]).relu()

    def key(self, k_BGNK: Tensor) -> Tensor:
        return (per_head(k_BGNK, self.weight_GKF) + self.bias_GF[:, None]).relu()

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """Random directions; a bias of 1, so that at the start few pairs have no feature in common."""
        self.weight_GKF.copy_(
            torch.randn(self.weight_GKF.shape, generator=generator) * self.weight_GKF.shape[1] ** -0.5
        )
        self.bias_GF.fill_(1.0)
