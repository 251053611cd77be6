"""elu(x) + 1. K query/key size."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from compress.model.linear.feature import FeatureMap, FeatureMapSpec


class EluSpec(FeatureMapSpec):
    """phi(x) = elu(x) + 1, K features, nothing to learn (Katharopoulos et al. 2020, arXiv 2006.16236)."""

    kind: Literal["elu"] = "elu"

    def features(self, head_dim: int) -> int:
        return head_dim

    def build(self, num_heads: int, num_kv_heads: int, head_dim: int) -> Elu:
        return Elu()


class Elu(FeatureMap):
    def query(self, q_BHNK: Tensor) -> Tensor:
        return F.elu(q_BHNK) + 1

    def key(self, k_BGNK: Tensor) -> Tensor:
        return F.elu(k_BGNK) + 1
