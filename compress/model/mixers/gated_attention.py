"""Softmax attention whose heads' output is gated by the token that asked (Qwen3.5).

B batch, N tokens, D hidden size, H heads, G key heads, K head size.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from compress.model.attention import Look, attend, attention_mask, grown, join_heads, probabilities, split_heads
from compress.model.mixer import PAST, Mixer, MixerSpec, State, StateSpec
from compress.model.projection import Projection
from compress.model.scores.projected import ProjectedScoresSpec
from compress.model.sequence import Context


class GatedAttentionSpec(MixerSpec):
    """Causal. y = (sigmoid(x Wg) * heads) Wo, heads the mixtures of values of softmax attention. `bias`: of values,
    gate and output."""

    kind: Literal["gated-attention"] = "gated-attention"
    scores: ProjectedScoresSpec
    bias: bool = False

    def build(self, hidden_size: int, loops: int) -> GatedAttention:
        return GatedAttention(self, hidden_size, loops)


class GatedAttention(Mixer):
    def __init__(self, spec: GatedAttentionSpec, hidden_size: int, loops: int) -> None:
        super().__init__()
        self.spec = spec
        heads, groups, size = spec.scores.num_heads, spec.scores.num_kv_heads, spec.scores.head_dim
        self.scores = spec.scores.build(hidden_size, loops)
        self.value = Projection(hidden_size, groups * size, bias=spec.bias, loops=loops)
        self.gate = Projection(hidden_size, heads * size, bias=spec.bias, loops=loops)
        self.output = Projection(heads * size, hidden_size, bias=spec.bias, loops=loops)

    def forward(self, x_BND: Tensor, loop: int, context: Context) -> Tensor:
        q_BHNK, k_BGNK = self._asked(x_BND, loop, context)
        return self._mixed(x_BND, q_BHNK, k_BGNK, self._carried(x_BND, loop), loop, context)

    def attention(self, x_BND: Tensor, loop: int, context: Context) -> Tensor:
        return probabilities(*self._asked(x_BND, loop, context), self._look(x_BND, context, 0))

    def state_spec(self) -> tuple[StateSpec, ...]:
        shape = (self.spec.scores.num_kv_heads, PAST, self.spec.scores.head_dim)
        return StateSpec("key", shape), StateSpec("value", shape)

    def chunk(self, x_BND: Tensor, state: State, loop: int, context: Context) -> tuple[Tensor, State]:
        """The state is a cache of keys and values (B,G,P,K)."""
        q_BHNK, k_BGNK = self._asked(x_BND, loop, context)
        k_BGMK, v_BGMK = grown(state[0], k_BGNK), grown(state[1], self._carried(x_BND, loop))
        return self._mixed(x_BND, q_BHNK, k_BGMK, v_BGMK, loop, context), (k_BGMK, v_BGMK)

    def readers(self) -> list[Projection]:
        return [*self.scores.readers(), self.value, self.gate]

    def _asked(self, x_BND: Tensor, loop: int, context: Context) -> tuple[Tensor, Tensor]:
        q_BHNK, k_BGNK = self.scores(x_BND, loop, context)
        return q_BHNK[:, :, : context.rows], k_BGNK

    def _carried(self, x_BND: Tensor, loop: int) -> Tensor:
        return split_heads(self.value(x_BND, loop), self.spec.scores.num_kv_heads)

    def _look(self, x_BND: Tensor, context: Context, past: int) -> Look:
        return Look(attention_mask(context, x_BND.shape[1], True, x_BND.device, past))

    def _mixed(
        self, x_BND: Tensor, q_BHNK: Tensor, k_BGMK: Tensor, v_BGMK: Tensor, loop: int, context: Context
    ) -> Tensor:
        look = self._look(x_BND, context, k_BGMK.shape[2] - x_BND.shape[1])
        mixed_BNW = join_heads(attend(q_BHNK, k_BGMK, v_BGMK, look))
        return self.output(mixed_BNW * self.gate(x_BND[:, : context.rows], loop).sigmoid(), loop)
