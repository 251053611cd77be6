"""What mixers that work on features of queries and keys share: their projections and their feature map.

B batch, N tokens, D hidden size, H heads, G key heads, K query/key size, F features.
"""

from __future__ import annotations

from pydantic import PositiveFloat, model_validator
from torch import Tensor, nn

from compress.model import features as _features  # noqa: F401  (registers the kinds)
from compress.model import scores as _scores  # noqa: F401
from compress.model.attention import AnyScores
from compress.model.linear.feature import AnyFeatureMap
from compress.model.linear.sums import wide
from compress.model.mixer import Mixer, MixerSpec
from compress.model.projection import Projection
from compress.model.sequence import Context
from compress.model.values.projected import ProjectedValuesSpec


class FeatureMixerSpec(MixerSpec):
    """`balance`: queries are multiplied and keys divided by it before the feature map, which leaves q . k as it is."""

    kind: str
    scores: AnyScores
    values: ProjectedValuesSpec
    feature: AnyFeatureMap
    balance: PositiveFloat = 1.0

    @model_validator(mode="after")
    def _heads_match(self) -> FeatureMixerSpec:
        if self.scores.key_heads != self.values.num_kv_heads:
            raise ValueError(f"{self.scores.key_heads} key heads, but {self.values.num_kv_heads} value heads")
        return self


class FeatureMixer(Mixer):
    """`feature_shape`: (G,F)."""

    def __init__(self, spec: FeatureMixerSpec, hidden_size: int, loops: int) -> None:
        super().__init__()
        self.spec = spec
        heads = spec.scores.num_heads
        self.scores = spec.scores.build(hidden_size, loops)
        self.values = spec.values.build(hidden_size, heads, loops)
        groups, size = self.scores.key_shape(hidden_size)
        self.feature = spec.feature.build(heads, groups, size)
        self.feature_shape = (groups, spec.feature.features(size))

    def balanced(self, x_BND: Tensor, loop: int, context: Context) -> tuple[Tensor, Tensor]:
        """Queries (B,H,N,K) and keys (B,G,N,K) as the feature map gets them, in FP32."""
        q_BHNK, k_BGNK = self.scores(x_BND, loop, context)
        return wide(q_BHNK) * self.spec.balance, wide(k_BGNK) / self.spec.balance

    def readers(self) -> list[Projection] | None:
        scores, values = self.scores.readers(), self.values.readers()
        return None if scores is None else [*scores, *values]

    def learned(self) -> list[nn.Parameter]:
        return list(self.feature.parameters())
