"""Gated DeltaNet as it is trained from the start (Qwen3.5): the gated delta rule with short convolutions before it and
a gated norm behind it.

B batch, N tokens, D hidden size, G value heads, F key size, V value size.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from compress.model.attention import join_heads, split_heads
from compress.model.linear.gated import decaying_sums
from compress.model.linear.sums import SPAN, in_full, wide
from compress.model.linear.taps import Taps
from compress.model.mixer import Mixer, MixerSpec, State, StateSpec
from compress.model.mixers.gated_delta_rule import stepped, written
from compress.model.norms import NormSpec
from compress.model.projection import Projection
from compress.model.sequence import Context

#: Added to squared lengths before queries and keys are divided by them.
_LEAST = 1e-6


class GatedDeltaNetSpec(MixerSpec):
    """(q, k, v) = silu(taps(x W)), then the gated delta rule (see `GatedDeltaRuleSpec`) with q / sqrt(F) and the decay
    exp(-rate softplus(x Wa + b)) of each value head; y = (rms(read) * silu(x Wz)) Wo (Yang et al., arXiv 2412.06464).
    A key head serves `num_value_heads` / `num_key_heads` value heads. Padding is zero. The states are the last tokens
    before the convolution and the memory (G,F,V)."""

    kind: Literal["gated-delta-net"] = "gated-delta-net"
    num_key_heads: PositiveInt
    num_value_heads: PositiveInt
    key_dim: PositiveInt
    value_dim: PositiveInt
    length: Annotated[int, Field(ge=2)]
    eps: float = 1e-6

    @model_validator(mode="after")
    def _heads_divide(self) -> GatedDeltaNetSpec:
        if self.num_value_heads % self.num_key_heads:
            raise ValueError(f"{self.num_value_heads} value heads are not a multiple of {self.num_key_heads} key heads")
        return self

    @property
    def widths(self) -> tuple[int, int, int]:
        """Columns of queries, keys and values."""
        keys = self.num_key_heads * self.key_dim
        return keys, keys, self.num_value_heads * self.value_dim

    def build(self, hidden_size: int, loops: int) -> GatedDeltaNet:
        return GatedDeltaNet(self, hidden_size, loops)


class GatedDeltaNet(Mixer):
    def __init__(self, spec: GatedDeltaNetSpec, hidden_size: int, loops: int) -> None:
        super().__init__()
        self.spec = spec
        heads, width = spec.num_value_heads, spec.widths[2]
        self.packed = Projection(hidden_size, sum(spec.widths), bias=False, loops=loops)
        self.taps = Taps(sum(spec.widths), spec.length, loops=loops)
        self.gate = Projection(hidden_size, heads, loops=loops)
        self.strength = Projection(hidden_size, heads, bias=False, loops=loops)
        self.rate = nn.Parameter(torch.ones(heads))
        self.leave = Projection(hidden_size, width, bias=False, loops=loops)
        self.norm = NormSpec(kind="rms", eps=spec.eps).build(spec.value_dim, loops)
        self.output = Projection(width, hidden_size, bias=False, loops=loops)

    def forward(self, x_BND: Tensor, loop: int, context: Context) -> Tensor:
        memory_BGFV = x_BND.new_zeros(len(x_BND), *self._memory)
        return self.chunk(x_BND, (self.taps.fresh(x_BND), memory_BGFV), loop, context)[0]

    @property
    def _memory(self) -> tuple[int, int, int]:
        return self.spec.num_value_heads, self.spec.key_dim, self.spec.value_dim

    def state_spec(self) -> tuple[StateSpec, StateSpec]:
        return StateSpec("taps", self.taps.shape), StateSpec("memory", self._memory)

    def chunk(self, x_BND: Tensor, state: State, loop: int, context: Context) -> tuple[Tensor, State]:
        x_BND = context.without_padding(x_BND)
        mixed_BNW, taps = self.taps(self.packed(x_BND, loop), state[0], loop)
        with in_full(x_BND.device):
            read_BGNV, memory = self._read(x_BND, F.silu(mixed_BNW), state[1], loop)
        gate_BNW = self.leave(x_BND[:, : context.rows], loop)
        gated_BGNV = self.norm(read_BGNV[:, :, : context.rows].to(x_BND.dtype), loop)
        return self.output(join_heads(gated_BGNV) * F.silu(gate_BNW), loop), (taps, memory)

    def readers(self) -> None:
        """An offset folded into the maps would be added at padding too, which has to stay zero."""
        return

    def _read(self, x_BND: Tensor, mixed_BNW: Tensor, past_BGFV: Tensor, loop: int) -> tuple[Tensor, Tensor]:
        """What each token reads of the memory (B,G,N,V), and the memory behind the last."""
        spec, heads = self.spec, self.spec.num_value_heads
        q, k, v = torch.split(wide(mixed_BNW), list(spec.widths), dim=-1)
        share = heads // spec.num_key_heads
        q_BGNF, k_BGNF = (_unit(split_heads(one, spec.num_key_heads)).repeat_interleave(share, dim=1) for one in (q, k))
        decay_BGN = (-self.rate * F.softplus(wide(self.gate(x_BND, loop)))).transpose(1, 2)
        strength_BGN = wide(self.strength(x_BND, loop)).sigmoid().transpose(1, 2)
        parts = q_BGNF * spec.key_dim**-0.5, k_BGNF, split_heads(v, heads), decay_BGN, strength_BGN
        if torch.compiler.is_exporting():
            return stepped(*parts, past_BGFV)
        read = []
        for start in range(0, x_BND.shape[1], SPAN):
            q_BGCF, k_BGCF, v_BGCV, decay_BGC, strength_BGC = (one[:, :, start : start + SPAN] for one in parts)
            u_BGCV = written(k_BGCF, v_BGCV, decay_BGC, strength_BGC, past_BGFV)
            read_BGCV, past_BGFV = decaying_sums(q_BGCF, k_BGCF, u_BGCV, decay_BGC, past_BGFV)
            read.append(read_BGCV)
        return torch.cat(read, dim=2), past_BGFV


def _unit(x_BGNF: Tensor) -> Tensor:
    return x_BGNF * (x_BGNF.square().sum(dim=-1, keepdim=True) + _LEAST).rsqrt()
