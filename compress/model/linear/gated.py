"""Linear attention that forgets: sums whose past decays, shared by its mixers. In FP32 throughout.

B batch, N tokens (R <= N of them are asked), D hidden size, H heads, G key heads, F features, V value size, W width of
what is summed. A decay is given by its logarithm, at most 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.model.attention import per_group
from compress.model.linear.feature_mixer import FeatureMixer, FeatureMixerSpec
from compress.model.linear.sums import SPAN, in_full, only_real, wide
from compress.model.mixer import State
from compress.model.projection import Projection
from compress.model.sequence import Context

#: Tokens over which a gate that has not been trained forgets to 1/e.
HORIZON = 4096


class GatedSpec(FeatureMixerSpec):
    """Causal. `feature` and `balance`: see `LinearAttentionSpec`. The gate of a key head is a_t = exp(-softplus(x_t W +
    b)), in FP32; padding keeps everything."""


@dataclass(frozen=True)
class Parts:
    """Of a chunk, in FP32: phi(q), phi(k) with padding at zero, values, and the decay at each token."""

    q_BHRF: Tensor
    k_BGNF: Tensor
    v_BGNV: Tensor
    decay_BGN: Tensor

    def span(self, start: int, end: int) -> Parts:
        """The tokens from one place to another."""
        q_BHRF, k_BGNF, v_BGNV = (x[:, :, start:end] for x in (self.q_BHRF, self.k_BGNF, self.v_BGNV))
        return Parts(q_BHRF, k_BGNF, v_BGNV, self.decay_BGN[..., start:end])


class GatedMixer(FeatureMixer):
    """What gated mixers share: projections, features, the gate, and whole sequences span by span."""

    def __init__(self, spec: GatedSpec, hidden_size: int, loops: int) -> None:
        super().__init__(spec, hidden_size, loops)
        self.gate = Projection(hidden_size, self.feature_shape[0], loops=loops)

    def sums(self, parts: Parts, past: Tensor, x_BND: Tensor, loop: int) -> tuple[Tensor, Tensor]:
        """What the queries read (B,H,R,W), and the state after the tokens (B,G,F,W)."""
        raise NotImplementedError

    def output(self, read_BHRW: Tensor, x_BND: Tensor, loop: int) -> Tensor:
        """The mixed tokens (B,R,D) from what the queries read."""
        raise NotImplementedError

    def width(self) -> int:
        """W, the width of the state."""
        raise NotImplementedError

    def start(self) -> None:
        """Open the gate as it should be before training."""
        bias = math.log(math.expm1(1 / HORIZON))
        self.gate.set(torch.zeros_like(self.gate.weight), torch.full_like(self.gate.bias[0], bias))

    def forward(self, x_BND: Tensor, loop: int, context: Context) -> Tensor:
        parts, tokens = self.parts(x_BND, loop, context), x_BND.shape[1]
        state = parts.k_BGNF.new_zeros(x_BND.shape[0], *self.feature_shape, self.width())
        if torch.compiler.is_exporting() or context.rows is not None:
            with in_full(x_BND.device):
                read_BHRW, _ = self.sums(parts, state, x_BND, loop)
            return self.output(read_BHRW, x_BND, loop)
        read = []
        for start in range(0, tokens, SPAN):
            end = min(start + SPAN, tokens)
            with in_full(x_BND.device):
                read_BHCW, state = self.sums(parts.span(start, end), state, x_BND[:, start:end], loop)
            read.append(read_BHCW)
        return self.output(torch.cat(read, dim=2), x_BND, loop)

    def chunk(self, x_BND: Tensor, state: State, loop: int, context: Context) -> tuple[Tensor, State]:
        parts = self.parts(x_BND, loop, context)
        with in_full(x_BND.device):
            read_BHNW, present = self.sums(parts, state[0], x_BND, loop)
        return self.output(read_BHNW, x_BND, loop), (present,)

    def readers(self) -> list[Projection] | None:
        readers = super().readers()
        return None if readers is None else [*readers, self.gate]

    def learned(self) -> list[nn.Parameter]:
        return [*super().learned(), *self.gate.parameters()]

    def parts(self, x_BND: Tensor, loop: int, context: Context) -> Parts:
        """What the sums are made of."""
        q_BHNK, k_BGNK = self.balanced(x_BND, loop, context)
        real_BN = context.real_BN(x_BND.shape[1])
        with in_full(x_BND.device):
            q_BHRF = self.feature.query(q_BHNK[:, :, : context.rows])
            k_BGNF = only_real(self.feature.key(k_BGNK), real_BN)
            decay_BGN = -F.softplus(wide(self.gate(x_BND, loop))).transpose(1, 2)
            if real_BN is not None:
                decay_BGN = decay_BGN * real_BN[:, None].to(decay_BGN.dtype)
        return Parts(q_BHRF, k_BGNF, wide(self.values.carry(x_BND, loop)), decay_BGN)


def decayed_since(decay_BGN: Tensor) -> tuple[Tensor, Tensor]:
    """How much of the past is left after each token (B,G,N), and how much of token j at token i (B,G,N,N), 0 for j > i:
    every exponent is at most 0, so nothing overflows."""
    place_N = torch.arange(decay_BGN.shape[-1], device=decay_BGN.device)
    earlier_NN = place_N <= place_N[:, None]
    since_start_BGN = (earlier_NN.to(decay_BGN.dtype) @ decay_BGN[..., None])[..., 0]
    between_BGNN = since_start_BGN[..., :, None] - since_start_BGN[..., None, :]
    least = torch.finfo(decay_BGN.dtype).min
    return since_start_BGN.exp(), between_BGNN.masked_fill(~earlier_NN, least).exp()


def decaying_sums(
    q_BHRF: Tensor, k_BGNF: Tensor, v_BGNW: Tensor, decay_BGN: Tensor, past_BGFW: Tensor
) -> tuple[Tensor, Tensor]:
    """S_t = a_t S_{t-1} + k_t v_t^T and q_t S_t, for all tokens at once: what is read (B,H,R,W), and the last S."""
    left_BGN, between_BGNN = decayed_since(decay_BGN)
    rows = q_BHRF.shape[2]
    weights_BHRN = of_groups(per_group(q_BHRF, k_BGNF.transpose(-1, -2)), between_BGNN[..., :rows, :])
    faded_BHRF = of_groups(q_BHRF, left_BGN[..., :rows, None])
    read_BHRW = per_group(weights_BHRN, v_BGNW) + per_group(faded_BHRF, past_BGFW)
    kept_BGNF = k_BGNF * between_BGNN[..., -1, :, None]
    return read_BHRW, past_BGFW * left_BGN[..., -1:, None] + kept_BGNF.transpose(-1, -2) @ v_BGNW


def of_groups(x_BHRN: Tensor, factor_BGRN: Tensor) -> Tensor:
    """x times the factor of each head's group (B,H,R,N)."""
    batch, heads, rows, _ = x_BHRN.shape
    groups = factor_BGRN.shape[1]
    if groups == heads:
        return x_BHRN * factor_BGRN
    grouped = x_BHRN.reshape(batch, groups, heads // groups, rows, -1) * factor_BGRN[:, :, None]
    return grouped.reshape(batch, heads, rows, -1)
