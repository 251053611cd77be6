"""relu(x): a learned feature map whose matrix is folded into the projections. K query/key size."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from compress.model.linear.feature import FeatureMap, FeatureMapSpec


class ReluSpec(FeatureMapSpec):
    """phi(x) = relu(x), K features: what `t2r` is once its matrix lies in the query and key projections."""

    kind: Literal["relu"] = "relu"

    def features(self, head_dim: int) -> int:
        return head_dim

    def build(self, num_heads: int, num_kv_heads: int, head_dim: int) -> Relu:
        return Relu()


class Relu(FeatureMap):
    def query(self, q_BHNK: Tensor) -> Tensor:
        return q_BHNK.relu()

    def key(self, k_BGNK: Tensor) -> Tensor:
        return k_BGNK.relu()
