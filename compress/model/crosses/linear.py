"""Linear attention to an encoder's tokens: what a decoder reads of a source has one size, however long the source is.

B batch, N tokens, S tokens of the source, H heads, G key heads, F features, V value size.
"""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat
from torch import Tensor, nn

from compress.model import features as _features  # noqa: F401  (registers the kinds)
from compress.model.attention import per_group
from compress.model.cross import Cross, CrossSpec
from compress.model.linear.feature import AnyFeatureMap
from compress.model.linear.sums import divided, in_full, only_real, wide, with_ones
from compress.model.mixer import StateSpec
from compress.model.sequence import Context, Memory


class LinearCrossSpec(CrossSpec):
    """y_i = sum_s (phi(q_i) . phi(k_s)) v_s / max(sum_s phi(q_i) . phi(k_s), eps) over the real tokens s of the source
    (Katharopoulos et al. 2020, arXiv 2006.16236; for cross-attention Kasai et al. 2021, arXiv 2103.13076). `balance`:
    queries are multiplied and keys divided by it before phi, which leaves q . k as it is.

    Kept is one tensor (G,F,V+1), made once a source: S = sum_s phi(k_s) v_s^T, and z = sum_s phi(k_s) in the last
    column.
    """

    kind: Literal["linear"] = "linear"
    feature: AnyFeatureMap
    balance: PositiveFloat = 1.0
    eps: PositiveFloat = 1e-6

    def build(self, hidden_size: int, loops: int) -> LinearCross:
        return LinearCross(self, hidden_size, loops)


class LinearCross(Cross):
    def __init__(self, spec: LinearCrossSpec, hidden_size: int, loops: int) -> None:
        super().__init__(spec, hidden_size, loops)
        scores = spec.scores
        self.spec = spec
        self.feature = spec.feature.build(scores.num_heads, scores.num_kv_heads, scores.head_dim)

    def keep(self, memory: Memory, loop: int) -> tuple[Tensor, ...]:
        assert memory.x_BSD is not None
        with in_full(memory.x_BSD.device):
            return (self._features(memory, loop).transpose(-1, -2) @ self._values(memory, loop),)

    def read(self, x_BND: Tensor, loop: int, kept: tuple[Tensor, ...], mask_BS: Tensor | None) -> Tensor:
        with in_full(x_BND.device):
            sums_BHNW = per_group(self._queries(x_BND, loop), wide(kept[0]))
            mixed_BHNV = divided(sums_BHNW, self.spec.eps)
        return self.values.combine(mixed_BHNV.to(x_BND.dtype), loop)

    def kept_spec(self) -> tuple[StateSpec, ...]:
        scores, values = self.spec.scores, self.spec.values
        return (
            StateSpec("sums", (scores.num_kv_heads, self.spec.feature.features(scores.head_dim), values.head_dim + 1)),
        )

    def attention(self, x_BND: Tensor, loop: int, context: Context) -> Tensor:
        assert context.memory is not None
        with in_full(x_BND.device):
            rows_BHNS = per_group(self._queries(x_BND, loop), self._features(context.memory, loop).transpose(-1, -2))
        return rows_BHNS / rows_BHNS.sum(dim=-1, keepdim=True).clamp(min=self.spec.eps)

    def learned(self) -> list[nn.Parameter]:
        return list(self.feature.parameters())

    def keys(self, memory: Memory, loop: int) -> Tensor:
        """The source's keys (B,G,S,K) as the feature map gets them, in FP32."""
        assert memory.x_BSD is not None
        return wide(self.scores.keys(memory.x_BSD, loop)) / self.spec.balance

    def _queries(self, x_BND: Tensor, loop: int) -> Tensor:
        """phi(q) (B,H,N,F)."""
        return self.feature.query(wide(self.scores.queries(x_BND, loop)) * self.spec.balance)

    def _features(self, memory: Memory, loop: int) -> Tensor:
        """phi(k) (B,G,S,F), zero at padding."""
        real_BS = None if memory.mask_BS is None else memory.mask_BS.bool()
        return only_real(self.feature.key(self.keys(memory, loop)), real_BS)

    def _values(self, memory: Memory, loop: int) -> Tensor:
        """Values with a one behind each (B,G,S,V+1)."""
        assert memory.x_BSD is not None
        return with_ones(wide(self.values.carry(memory.x_BSD, loop)))
