"""Gated linear attention: the sums of linear attention forget, by a gate that each token opens or shuts.

B batch, N tokens (R of them are asked), D hidden size, H heads, G key heads, V value size.
"""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat
from torch import Tensor

from compress.model.attention import per_group
from compress.model.linear.gated import GatedMixer, GatedSpec, Parts, decayed_since, decaying_sums, of_groups
from compress.model.linear.sums import divided, in_full, with_ones
from compress.model.mixer import StateSpec
from compress.model.sequence import Context


class GatedLinearAttentionSpec(GatedSpec):
    """S_t = a_t S_{t-1} + phi(k_t) v_t^T, z_t = a_t z_{t-1} + phi(k_t), y_t = phi(q_t) S_t / max(phi(q_t) . z_t, eps).
    One gate a_t a key head (Yang et al. 2024, arXiv 2312.06635, has one a feature), and the denominator of linear
    attention decays with the sums (as in the gated RFA of Peng et al. 2021, arXiv 2103.02143), so that open gates give
    linear attention exactly. See `GatedSpec`.

    The state is one tensor (G,F,V+1): S, and z in the last column. It stays bounded where the gates forget.
    """

    kind: Literal["gated-linear-attention"] = "gated-linear-attention"
    eps: PositiveFloat = 1e-6

    def build(self, hidden_size: int, loops: int) -> GatedLinearAttention:
        return GatedLinearAttention(self, hidden_size, loops)


class GatedLinearAttention(GatedMixer):
    spec: GatedLinearAttentionSpec

    def sums(self, parts: Parts, past: Tensor, x_BND: Tensor, loop: int) -> tuple[Tensor, Tensor]:
        return decaying_sums(parts.q_BHRF, parts.k_BGNF, with_ones(parts.v_BGNV), parts.decay_BGN, past)

    def output(self, read_BHRW: Tensor, x_BND: Tensor, loop: int) -> Tensor:
        return self.values.combine(divided(read_BHRW, self.spec.eps).to(x_BND.dtype), loop)

    def width(self) -> int:
        return self.spec.values.head_dim + 1

    def attention(self, x_BND: Tensor, loop: int, context: Context) -> Tensor:
        parts = self.parts(x_BND, loop, context)
        with in_full(x_BND.device):
            _, between_BGNN = decayed_since(parts.decay_BGN)
            products_BHRN = per_group(parts.q_BHRF, parts.k_BGNF.transpose(-1, -2))
            rows_BHRN = of_groups(products_BHRN, between_BGNN[..., : products_BHRN.shape[2], :])
        return rows_BHRN / rows_BHRN.sum(dim=-1, keepdim=True).clamp(min=self.spec.eps)

    def state_spec(self) -> tuple[StateSpec, ...]:
        return (StateSpec("sums", (*self.feature_shape, self.width())),)
