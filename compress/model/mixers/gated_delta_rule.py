"""The gated delta rule: a memory that forgets, and in which a token writes over what its key held before.

B batch, N tokens (R of them are asked), D hidden size, H heads, G key heads, F features, V value size.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from compress.model.attention import per_group
from compress.model.linear.gated import GatedMixer, GatedSpec, Parts, decayed_since, decaying_sums
from compress.model.linear.sums import wide
from compress.model.mixer import StateSpec
from compress.model.projection import Projection

#: Bias of the writing strength before training: nearly 1.
STRENGTH = 4.0
_LEAST_SQUARE = 1e-12


class GatedDeltaRuleSpec(GatedSpec):
    """S'_t = a_t S_{t-1}, S_t = S'_t + b_t k_t (v_t - k_t S'_t)^T, y_t = q_t S_t, with q and k the features of length
    1, phi / |phi|, and b_t = sigmoid(x_t W + b) the writing strength of each key head (Gated DeltaNet, Yang et al.,
    arXiv 2412.06464, whose q and k come from convolutions, and whose output is normed). See `GatedSpec`.

    The state is one tensor `memory` (G,F,V).
    """

    kind: Literal["gated-delta-rule"] = "gated-delta-rule"

    def build(self, hidden_size: int, loops: int) -> GatedDeltaRule:
        return GatedDeltaRule(self, hidden_size, loops)


class GatedDeltaRule(GatedMixer):
    spec: GatedDeltaRuleSpec

    def __init__(self, spec: GatedDeltaRuleSpec, hidden_size: int, loops: int) -> None:
        super().__init__(spec, hidden_size, loops)
        self.strength = Projection(hidden_size, self.feature_shape[0], loops=loops)

    def sums(self, parts: Parts, past: Tensor, x_BND: Tensor, loop: int) -> tuple[Tensor, Tensor]:
        strength_BGN = wide(self.strength(x_BND, loop)).sigmoid().transpose(1, 2)
        q_BHRF, k_BGNF = unit(parts.q_BHRF), unit(parts.k_BGNF)
        if torch.compiler.is_exporting():
            return stepped(q_BHRF, k_BGNF, parts.v_BGNV, parts.decay_BGN, strength_BGN, past)
        u_BGNV = written(k_BGNF, parts.v_BGNV, parts.decay_BGN, strength_BGN, past)
        return decaying_sums(q_BHRF, k_BGNF, u_BGNV, parts.decay_BGN, past)

    def output(self, read_BHRW: Tensor, x_BND: Tensor, loop: int) -> Tensor:
        return self.values.combine(read_BHRW.to(x_BND.dtype), loop)

    def width(self) -> int:
        return self.spec.values.head_dim

    def start(self) -> None:
        super().start()
        self.strength.set(torch.zeros_like(self.strength.weight), torch.full_like(self.strength.bias[0], STRENGTH))

    def state_spec(self) -> tuple[StateSpec, ...]:
        return (StateSpec("memory", (*self.feature_shape, self.width())),)

    def readers(self) -> list[Projection] | None:
        readers = super().readers()
        return None if readers is None else [*readers, self.strength]

    def learned(self) -> list[nn.Parameter]:
        return [*super().learned(), *self.strength.parameters()]


def unit(x_BHNF: Tensor) -> Tensor:
    """Of length 1; padding, which is zero, stays zero."""
    return x_BHNF * x_BHNF.square().sum(dim=-1, keepdim=True).clamp(min=_LEAST_SQUARE).rsqrt()


def written(k_BGNF: Tensor, v_BGNV: Tensor, decay_BGN: Tensor, strength_BGN: Tensor, past_BGFV: Tensor) -> Tensor:
    """What each token adds to the memory at its key, u_t = b_t (v_t - k_t S'_t) (B,G,N,V). Every u_t depends on those
    before it: (1 + L) u = b (v - k S decayed), L_ij = b_i k_i . k_j decayed for j < i, a triangular system."""
    left_BGN, between_BGNN = decayed_since(decay_BGN)
    strength_BGN1 = strength_BGN[..., None]
    wanted_BGNV = strength_BGN1 * (v_BGNV - left_BGN[..., None] * (k_BGNF @ past_BGFV))
    overlap_BGNN = (strength_BGN1 * (k_BGNF @ k_BGNF.transpose(-1, -2)) * between_BGNN).tril(diagonal=-1)
    return torch.linalg.solve_triangular(overlap_BGNN, wanted_BGNV, upper=False, unitriangular=True)


def stepped(
    q_BHNF: Tensor, k_BGNF: Tensor, v_BGNV: Tensor, decay_BGN: Tensor, strength_BGN: Tensor, past_BGFV: Tensor
) -> tuple[Tensor, Tensor]:
    """The equations as they stand, token by token: one Scan in an exported graph, which has no triangular solve."""
    from torch._higher_order_ops.scan import scan

    def step(memory_BGFV: Tensor, token: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        q_BHF, k_BGF, v_BGV, decay_BG, strength_BG = token
        faded_BGFV = memory_BGFV * decay_BG.exp()[..., None, None]
        held_BGV = (k_BGF[..., None, :] @ faded_BGFV)[..., 0, :]
        added_BGV = strength_BG[..., None] * (v_BGV - held_BGV)
        after_BGFV = faded_BGFV + k_BGF[..., :, None] * added_BGV[..., None, :]
        return after_BGFV, per_group(q_BHF[:, :, None], after_BGFV)[:, :, 0]

    tokens = tuple(x.movedim(2, 0) for x in (q_BHNF, k_BGNF, v_BGNV, decay_BGN, strength_BGN))
    memory_BGFV, read_NBHV = scan(step, past_BGFV, tokens, dim=0)
    return read_NBHV.movedim(0, 2), memory_BGFV
