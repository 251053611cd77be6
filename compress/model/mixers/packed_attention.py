"""Softmax attention with query, key and value maps in one matrix: the form that runs fastest.

B batch, N tokens, D hidden size, H heads, G key/value heads, K query/key size, V value size.
"""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt
from torch import Tensor

from compress.model.attention import Look, attend, attention_mask, grown, join_heads, probabilities, split_heads
from compress.model.mixer import PAST, Mixer, MixerSpec, State, StateSpec
from compress.model.projection import Projection
from compress.model.rope import AnyRope, rotate
from compress.model.sequence import Context


class PackedAttentionSpec(MixerSpec):
    """(q, k, v) = x W + b in one product, q and k turned where there are rotary positions; then
    y = sum_h softmax(scale q_h k_g^T) v_g Wo_h + bo."""

    kind: Literal["packed-attention"] = "packed-attention"
    num_heads: PositiveInt
    num_kv_heads: PositiveInt
    head_dim: PositiveInt
    value_dim: PositiveInt
    scale: float
    causal: bool = False
    window: PositiveInt | None = None
    rope: AnyRope | None = None
    bias: bool = True
    output_bias: bool = True

    def build(self, hidden_size: int, loops: int) -> PackedAttention:
        return PackedAttention(self, hidden_size, loops)

    @property
    def widths(self) -> tuple[int, int, int]:
        """Columns of queries, keys and values in the packed matrix."""
        return (
            self.num_heads * self.head_dim,
            self.num_kv_heads * self.head_dim,
            self.num_kv_heads * self.value_dim,
        )


class PackedAttention(Mixer):
    def __init__(self, spec: PackedAttentionSpec, hidden_size: int, loops: int) -> None:
        super().__init__()
        self.spec = spec
        self.packed = Projection(hidden_size, sum(spec.widths), bias=spec.bias, loops=loops)
        self.output = Projection(spec.num_heads * spec.value_dim, hidden_size, bias=spec.output_bias, loops=loops)

    def forward(self, x_BND: Tensor, loop: int, context: Context) -> Tensor:
        q_BHNK, k_BGNK, v_BGNV = self._heads(x_BND, loop, context)
        look = self._look(context, x_BND)
        return self.output(join_heads(attend(q_BHNK, k_BGNK, v_BGNV, look, self.spec.scale)), loop)

    def attention(self, x_BND: Tensor, loop: int, context: Context) -> Tensor:
        q_BHNK, k_BGNK, _ = self._heads(x_BND, loop, context)
        return probabilities(q_BHNK, k_BGNK, self._look(context, x_BND), self.spec.scale)

    def _look(self, context: Context, x_BND: Tensor, past: int = 0) -> Look:
        spec = self.spec
        return Look(attention_mask(context, x_BND.shape[1], spec.causal, x_BND.device, past, spec.window))

    def state_spec(self) -> tuple[StateSpec, ...] | None:
        spec = self.spec
        if not spec.causal:
            return None
        key = StateSpec("key", (spec.num_kv_heads, PAST, spec.head_dim))
        return key, StateSpec("value", (spec.num_kv_heads, PAST, spec.value_dim))

    def chunk(self, x_BND: Tensor, state: State, loop: int, context: Context) -> tuple[Tensor, State]:
        """The state is a cache of keys (B,G,P,K) and values (B,G,P,V)."""
        q_BHNK, k_BGNK, v_BGNV = self._heads(x_BND, loop, context)
        k_BGMK, v_BGMV = grown(state[0], k_BGNK), grown(state[1], v_BGNV)
        look = self._look(context, x_BND, past=state[0].shape[2])
        mixed_BHNV = attend(q_BHNK, k_BGMK, v_BGMV, look, self.spec.scale)
        return self.output(join_heads(mixed_BHNV), loop), (k_BGMK, v_BGMV)

    def _heads(self, x_BND: Tensor, loop: int, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B,H,rows,K), keys (B,G,N,K) and values (B,G,N,V)."""
        spec, rows = self.spec, context.rows
        q, k, v = self.packed(x_BND, loop).split(spec.widths, dim=-1)
        q_BHNK, k_BGNK = split_heads(q[:, :rows], spec.num_heads), split_heads(k, spec.num_kv_heads)
        if spec.rope is not None:
            places_BN = context.places_BN(x_BND)
            q_BHNK = rotate(q_BHNK, places_BN[:, :rows], spec.rope)
            k_BGNK = rotate(k_BGNK, places_BN, spec.rope)
        return q_BHNK, k_BGNK, split_heads(v, spec.num_kv_heads)

    def readers(self) -> list[Projection]:
        return [self.packed]
