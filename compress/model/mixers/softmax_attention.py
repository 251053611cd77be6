"""Softmax attention, put together from a way to score and a way to carry values. B batch, N tokens, D hidden."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from compress.model import biases as _biases  # noqa: F401  (registers the kinds)
from compress.model import scores as _scores  # noqa: F401
from compress.model import values as _values  # noqa: F401
from compress.model.attention import AnyScores, AnyValues, Look, attention_mask, grown, probabilities
from compress.model.bias import AnyBias
from compress.model.mixer import PAST, Mixer, MixerSpec, State, StateSpec
from compress.model.projection import Projection
from compress.model.sequence import Context


class SoftmaxAttentionSpec(MixerSpec):
    """y_i = values(softmax_j(logit_ij), x). `window`: how far a query sees, see `attention_mask`; `bias`: added to the
    logits for where query and key stand; `cap`: logits become cap tanh(logit / cap) before that (Gemma 2)."""

    kind: Literal["softmax-attention"] = "softmax-attention"
    scores: AnyScores
    values: AnyValues
    causal: bool = False
    window: PositiveInt | None = None
    bias: AnyBias | None = None
    cap: PositiveFloat | None = None

    def build(self, hidden_size: int, loops: int) -> SoftmaxAttention:
        return SoftmaxAttention(self, hidden_size, loops)


class SoftmaxAttention(Mixer):
    def __init__(self, spec: SoftmaxAttentionSpec, hidden_size: int, loops: int) -> None:
        super().__init__()
        self.spec = spec
        self.causal = spec.causal
        self.hidden_size = hidden_size
        self.scores = spec.scores.build(hidden_size, loops)
        self.values = spec.values.build(hidden_size, spec.scores.num_heads, loops)
        self.bias = spec.bias.build(spec.scores.num_heads) if spec.bias else None

    def forward(self, x_BND: Tensor, loop: int, context: Context) -> Tensor:
        q_BHNK, k_BGNK, look = self.looking(x_BND, loop, context)
        return self.values(q_BHNK, k_BGNK, x_BND, look, loop)

    def attention(self, x_BND: Tensor, loop: int, context: Context) -> Tensor:
        return probabilities(*self.looking(x_BND, loop, context))

    def looking(self, x_BND: Tensor, loop: int, context: Context) -> tuple[Tensor, Tensor, Look]:
        """Queries (B,H,rows,K), keys (B,G,N,K) and who looks at whom."""
        q_BHNK, k_BGNK = self.scores(x_BND, loop, context)
        q_BHNK = q_BHNK[:, :, : context.rows]
        return q_BHNK, k_BGNK, self._look(q_BHNK, k_BGNK, context, x_BND.shape[1], 0)

    def _look(self, q_BHNK: Tensor, k_BGMK: Tensor, context: Context, tokens: int, past: int) -> Look:
        mask = attention_mask(context, tokens, self.causal, q_BHNK.device, past, self.spec.window)
        bias = None if self.bias is None else self.bias(q_BHNK, k_BGMK, past)
        return Look(mask, bias, self.spec.cap)

    def state_spec(self) -> tuple[StateSpec, ...] | None:
        if not self.causal:
            return None
        (groups, size), (carriers, width) = (
            self.scores.key_shape(self.hidden_size),
            self.values.carried_shape(self.hidden_size),
        )
        return StateSpec("key", (groups, PAST, size)), StateSpec("value", (carriers, PAST, width))

    def chunk(self, x_BND: Tensor, state: State, loop: int, context: Context) -> tuple[Tensor, State]:
        """The state is a cache of keys (B,G,P,K) and of what is carried of each token (B,G,P,V)."""
        q_BHNK, k_BGNK = self.scores(x_BND, loop, context)
        k_BGMK, v_BGMV = grown(state[0], k_BGNK), grown(state[1], self.values.carry(x_BND, loop))
        look = self._look(q_BHNK, k_BGMK, context, x_BND.shape[1], state[0].shape[2])
        return self.values.mix(q_BHNK, k_BGMK, v_BGMV, look, loop), (k_BGMK, v_BGMV)

    def readers(self) -> list[Projection] | None:
        halves = self.scores.readers(), self.values.readers()
        if halves[0] is None or halves[1] is None:
            return None
        return halves[0] + halves[1]
