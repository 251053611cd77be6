"""Softmax attention over a sliding window and linear attention for what lies before it.

B batch, N tokens at hand (R of them are asked), W window, M = W + N, D hidden size, H heads, G key heads, K query/key
size, F features, V value size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from compress.model.attention import per_group
from compress.model.linear.feature_mixer import FeatureMixer, FeatureMixerSpec
from compress.model.linear.sums import (
    before_spans,
    causal_products,
    causal_sums,
    divided,
    in_full,
    joined,
    only_real,
    spans,
    wide,
    with_ones,
)
from compress.model.mixer import State, StateSpec
from compress.model.sequence import Context


class WindowedLinearAttentionSpec(FeatureMixerSpec):
    """y_n = (g_h sum_{n-W < i <= n} e^(q_n.k_i - c_n) v_i + phi(q_n) S) / max(g_h sum_i e^(q_n.k_i - c_n) +
    phi(q_n) . z, eps), S = sum_{j <= n-W} phi(k_j) v_j^T, z = sum_{j <= n-W} phi(k_j), c_n the largest logit of the
    window, g_h = exp(gate_h) learned (LoLCATs, Zhang et al. 2024, arXiv 2410.10254, whose gate is a sigmoid: one
    window could not outweigh a thousand tokens before it). Causal. `balance`: see `LinearAttentionSpec`.

    The state: `sums` as that of linear attention, the last W `keys` and `values`, and which of them are `real`.
    Padding takes up places of the window, so it belongs in front of a sequence.
    """

    kind: Literal["windowed-linear-attention"] = "windowed-linear-attention"
    window: PositiveInt = 64
    eps: PositiveFloat = 1e-6

    def build(self, hidden_size: int, loops: int) -> WindowedLinearAttention:
        return WindowedLinearAttention(self, hidden_size, loops)


@dataclass(frozen=True)
class _Parts:
    """Of a chunk and the W tokens before it, in FP32: queries, keys, values with ones behind, 1 at real tokens; and
    phi(q) with phi(k) of the tokens that leave the window while the chunk passes: its first N."""

    q_BHRK: Tensor
    k_BGMK: Tensor
    v_BGMW: Tensor
    real_BM: Tensor
    phi_q_BHRF: Tensor
    phi_k_BGNF: Tensor


class WindowedLinearAttention(FeatureMixer):
    spec: WindowedLinearAttentionSpec

    def __init__(self, spec: WindowedLinearAttentionSpec, hidden_size: int, loops: int) -> None:
        super().__init__(spec, hidden_size, loops)
        groups, size = self.scores.key_shape(hidden_size)
        self.gate_H = nn.Parameter(torch.zeros(spec.scores.num_heads))
        self.state_shapes = (
            (*self.feature_shape, spec.values.head_dim + 1),
            (groups, spec.window, size),
            (groups, spec.window, spec.values.head_dim),
            (spec.window,),
        )

    def forward(self, x_BND: Tensor, loop: int, context: Context) -> Tensor:
        if torch.compiler.is_exporting() or context.rows is not None:
            return self.chunk(x_BND, self._fresh(x_BND), loop, context)[0]
        batch, tokens, _ = x_BND.shape
        window = self.spec.window
        parts = self._parts(x_BND, self._fresh(x_BND), loop, context)
        with in_full(x_BND.device):  # every span is a chunk, all at once
            chunks = _Parts(
                spans(parts.q_BHRK),
                spans(parts.k_BGMK, window),
                spans(parts.v_BGMW, window),
                spans(parts.real_BM[:, None, :, None], window)[:, 0, :, 0],
                spans(parts.phi_q_BHRF),
                spans(parts.phi_k_BGNF),
            )
            past_AGFW = before_spans(chunks.phi_k_BGNF, chunks.v_BGMW[:, :, :-window], batch)
            sums_BHNW = joined(self._sums(chunks, past_AGFW)[0], batch, tokens)
        return self._output(sums_BHNW, x_BND, loop)

    def attention(self, x_BND: Tensor, loop: int, context: Context) -> Tensor:
        parts = self._parts(x_BND, self._fresh(x_BND), loop, context)
        window = self.spec.window
        with in_full(x_BND.device):
            before_BHRN = causal_products(parts.phi_q_BHRF, parts.phi_k_BGNF)[..., window:]
            near_BHRN = self._near(parts)[..., window:]
        rows_BHRN = near_BHRN + F.pad(before_BHRN, (0, near_BHRN.shape[-1] - before_BHRN.shape[-1]))
        return rows_BHRN / rows_BHRN.sum(dim=-1, keepdim=True).clamp(min=self.spec.eps)

    def log_odds(self, x_BND: Tensor, loop: int, context: Context) -> Tensor:
        """log of what the window weighs to what lies before it, with a gate of 1 (B,H,N); not finite where nothing
        does."""
        parts = self._parts(x_BND, self._fresh(x_BND), loop, context)
        before_BHN = causal_products(parts.phi_q_BHRF, parts.phi_k_BGNF).sum(dim=-1)
        return (self._near(parts).sum(dim=-1) / before_BHN).log() - wide(self.gate_H)[:, None]

    def state_spec(self) -> tuple[StateSpec, ...]:
        names = ("sums", "keys", "values", "real")
        return tuple(StateSpec(name, shape) for name, shape in zip(names, self.state_shapes, strict=True))

    def chunk(self, x_BND: Tensor, state: State, loop: int, context: Context) -> tuple[Tensor, State]:
        parts, window = self._parts(x_BND, state, loop, context), self.spec.window
        with in_full(x_BND.device):
            sums_BHRW, present_BGFW = self._sums(parts, state[0])
        last = parts.k_BGMK[:, :, -window:], parts.v_BGMW[:, :, -window:, :-1], parts.real_BM[:, -window:]
        return self._output(sums_BHRW, x_BND, loop), (present_BGFW, *last)

    def learned(self) -> list[nn.Parameter]:
        return [*super().learned(), self.gate_H]

    def _parts(self, x_BND: Tensor, state: State, loop: int, context: Context) -> _Parts:
        q_BHNK, k_BGNK = self.scores(x_BND, loop, context)
        q_BHRK = wide(q_BHNK[:, :, : context.rows])
        k_BGMK = torch.cat([state[1], wide(k_BGNK)], dim=2)
        v_BGMW = with_ones(torch.cat([state[2], wide(self.values.carry(x_BND, loop))], dim=2))
        real_BN = context.real_BN(x_BND.shape[1])
        real_BN = torch.ones_like(x_BND[..., 0]) if real_BN is None else real_BN.expand(x_BND.shape[0], -1)
        real_BM = torch.cat([state[3], real_BN.to(state[3].dtype)], dim=1)
        balance, window = self.spec.balance, self.spec.window
        with in_full(x_BND.device):
            phi_q_BHRF = self.feature.query(q_BHRK * balance)
            phi_k_BGNF = only_real(self.feature.key(k_BGMK[:, :, :-window] / balance), real_BM[:, :-window])
        return _Parts(q_BHRK, k_BGMK, v_BGMW, real_BM, phi_q_BHRF, phi_k_BGNF)

    def _sums(self, parts: _Parts, past_BGFW: Tensor) -> tuple[Tensor, Tensor]:
        """Numerators and denominators of the queries (B,H,R,V+1), and the sums after the chunk."""
        leaving_BGNW = parts.v_BGMW[:, :, : -self.spec.window]
        sums_BHRW, present_BGFW = causal_sums(parts.phi_q_BHRF, parts.phi_k_BGNF, leaving_BGNW, past_BGFW)
        return sums_BHRW + per_group(self._near(parts), parts.v_BGMW), present_BGFW

    def _output(self, sums_BHRW: Tensor, x_BND: Tensor, loop: int) -> Tensor:
        return self.values.combine(divided(sums_BHRW, self.spec.eps).to(x_BND.dtype), loop)

    def _near(self, parts: _Parts) -> Tensor:
        """g_h e^(q_n.k_i - c_n) for the window of each query, else 0 (B,H,R,M)."""
        window, device = self.spec.window, parts.q_BHRK.device
        logits_BHRM = per_group(parts.q_BHRK, parts.k_BGMK.transpose(-1, -2))
        row_R1 = torch.arange(parts.q_BHRK.shape[2], device=device)[:, None]
        place_M = torch.arange(parts.k_BGMK.shape[2], device=device)
        seen_BHRM = (place_M > row_R1) & (place_M <= row_R1 + window) & (parts.real_BM[:, None, None] > 0)
        logits_BHRM = logits_BHRM.masked_fill(~seen_BHRM, torch.finfo(logits_BHRM.dtype).min)
        powers_BHRM = (logits_BHRM - logits_BHRM.amax(dim=-1, keepdim=True)).exp()
        return powers_BHRM * seen_BHRM.to(powers_BHRM.dtype) * wide(self.gate_H).exp()[:, None, None]

    def _fresh(self, x_BND: Tensor) -> State:
        zeros = wide(x_BND.new_zeros(()))
        return tuple(zeros.new_zeros(x_BND.shape[0], *shape) for shape in self.state_shapes)
