"""Linear attention: the exponential of softmax attention becomes a product of features, so that the past is a sum.

B batch, N tokens (R of them are asked), D hidden size, H heads, G key heads, F features, V value size.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor

from compress.model.attention import per_group
from compress.model.linear.feature_mixer import FeatureMixer, FeatureMixerSpec
from compress.model.linear.sums import (
    causal_products,
    causal_sums,
    divided,
    in_full,
    only_real,
    spanned_sums,
    whole_sums,
    wide,
    with_ones,
)
from compress.model.mixer import State, StateSpec
from compress.model.sequence import Context


class LinearAttentionSpec(FeatureMixerSpec):
    """y_i = sum_j (phi(q_i) . phi(k_j)) v_j / max(sum_j phi(q_i) . phi(k_j), eps), over j <= i if causal, then the
    output projection (Katharopoulos et al. 2020, arXiv 2006.16236). phi comes after rotary positions. Padding has
    phi(k) = 0. `balance`: queries are multiplied and keys divided by it before phi, which leaves q . k as it is.

    The state, if causal, is one tensor (G,F,V+1): S = sum_j phi(k_j) v_j^T, and z = sum_j phi(k_j) in the last column.
    """

    kind: Literal["linear-attention"] = "linear-attention"
    eps: PositiveFloat = 1e-6
    causal: bool = False

    def build(self, hidden_size: int, loops: int) -> LinearAttention:
        return LinearAttention(self, hidden_size, loops)


class LinearAttention(FeatureMixer):
    spec: LinearAttentionSpec

    def __init__(self, spec: LinearAttentionSpec, hidden_size: int, loops: int) -> None:
        super().__init__(spec, hidden_size, loops)
        self.state_shape = (*self.feature_shape, spec.values.head_dim + 1)

    def forward(self, x_BND: Tensor, loop: int, context: Context) -> Tensor:
        q_BHRF, k_BGNF, v_BGNW = self._parts(x_BND, loop, context)
        with in_full(x_BND.device):
            if not self.spec.causal:
                sums_BHRW = whole_sums(q_BHRF, k_BGNF, v_BGNW)
            elif torch.compiler.is_exporting() or context.rows is not None:
                sums_BHRW, _ = causal_sums(q_BHRF, k_BGNF, v_BGNW, self._fresh(v_BGNW))
            else:
                sums_BHRW = spanned_sums(q_BHRF, k_BGNF, v_BGNW)
        return self._output(sums_BHRW, x_BND, loop)

    def attention(self, x_BND: Tensor, loop: int, context: Context) -> Tensor:
        q_BHRF, k_BGNF, _ = self._parts(x_BND, loop, context)
        with in_full(x_BND.device):
            rows_BHRN = (
                causal_products(q_BHRF, k_BGNF) if self.spec.causal else per_group(q_BHRF, k_BGNF.transpose(-1, -2))
            )
        return rows_BHRN / rows_BHRN.sum(dim=-1, keepdim=True).clamp(min=self.spec.eps)

    def state_spec(self) -> tuple[StateSpec, ...] | None:
        return (StateSpec("sums", self.state_shape),) if self.spec.causal else None

    def chunk(self, x_BND: Tensor, state: State, loop: int, context: Context) -> tuple[Tensor, State]:
        q_BHNF, k_BGNF, v_BGNW = self._parts(x_BND, loop, context)
        with in_full(x_BND.device):
            sums_BHNW, present_BGFW = causal_sums(q_BHNF, k_BGNF, v_BGNW, state[0])
        return self._output(sums_BHNW, x_BND, loop), (present_BGFW,)

    def _parts(self, x_BND: Tensor, loop: int, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """phi(q) (B,H,R,F) of the rows asked for, phi(k) (B,G,N,F), values and ones (B,G,N,V+1), all in FP32."""
        q_BHNK, k_BGNK = self.balanced(x_BND, loop, context)
        with in_full(x_BND.device):
            q_BHRF = self.feature.query(q_BHNK[:, :, : context.rows])
            k_BGNF = only_real(self.feature.key(k_BGNK), context.real_BN(x_BND.shape[1]))
        return q_BHRF, k_BGNF, with_ones(wide(self.values.carry(x_BND, loop)))

    def _fresh(self, v_BGNW: Tensor) -> Tensor:
        return v_BGNW.new_zeros(v_BGNW.shape[0], *self.state_shape)

    def _output(self, sums_BHRW: Tensor, x_BND: Tensor, loop: int) -> Tensor:
        return self.values.combine(divided(sums_BHRW, self.spec.eps).to(x_BND.dtype), loop)
