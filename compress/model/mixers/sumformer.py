"""Sumformer: every token sees the mean of what all tokens say.

B batch, N tokens (R of them are asked), D hidden size, S summary size, I intermediate size.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from compress.model.activations import ACTIVATIONS, ActivationName
from compress.model.linear.sums import in_full, wide
from compress.model.mixer import Mixer, MixerSpec, State, StateSpec
from compress.model.projection import Projection
from compress.model.sequence import Context


class SumformerSpec(MixerSpec):
    """y_i = psi(x_i, m_i), m_i = mean_j phi(x_j), over j <= i if causal (Alberti et al. 2023, arXiv 2307.02301, with a
    mean in place of the sum, so that the length does not matter). phi(x) = x P + act(x U1 + b1) U2 and
    psi(x, m) = x A + m C + c + act(x V1 + m V2 + b2) V3: affine maps with an MLP of `intermediate_size` beside each.

    The state, if causal: `sum` (S) and the `count` (1) of tokens.
    """

    kind: Literal["sumformer"] = "sumformer"
    summary_size: PositiveInt
    intermediate_size: PositiveInt
    activation: ActivationName = "gelu"
    causal: bool = False

    def build(self, hidden_size: int, loops: int) -> Sumformer:
        return Sumformer(self, hidden_size, loops)


class Sumformer(Mixer):
    def __init__(self, spec: SumformerSpec, hidden_size: int, loops: int) -> None:
        super().__init__()
        self.spec = spec
        inner, summary = spec.intermediate_size, spec.summary_size
        self.activation = ACTIVATIONS[spec.activation]
        self.say = Projection(hidden_size, summary, bias=False, loops=loops)
        self.say_up = Projection(hidden_size, inner, loops=loops)
        self.say_down = Projection(inner, summary, bias=False, loops=loops)
        self.own = Projection(hidden_size, hidden_size, loops=loops)
        self.hear = Projection(summary, hidden_size, bias=False, loops=loops)
        self.own_up = Projection(hidden_size, inner, loops=loops)
        self.hear_up = Projection(summary, inner, bias=False, loops=loops)
        self.down = Projection(inner, hidden_size, bias=False, loops=loops)

    def forward(self, x_BND: Tensor, loop: int, context: Context) -> Tensor:
        said_BNS, real_BN1 = self._said(x_BND, loop, context)
        if self.spec.causal:
            fresh = said_BNS.new_zeros(x_BND.shape[0], said_BNS.shape[-1]), said_BNS.new_zeros(x_BND.shape[0], 1)
            mean_BRS, _ = self._running(said_BNS, real_BN1, fresh)
            mean_BRS = mean_BRS[:, : context.rows]
        else:
            mean_BRS = said_BNS.sum(dim=1, keepdim=True) / real_BN1.sum(dim=1, keepdim=True).clamp(min=1)
        return self._answer(x_BND[:, : context.rows], mean_BRS, loop)

    def state_spec(self) -> tuple[StateSpec, ...] | None:
        if not self.spec.causal:
            return None
        return StateSpec("sum", (self.spec.summary_size,)), StateSpec("count", (1,))

    def chunk(self, x_BND: Tensor, state: State, loop: int, context: Context) -> tuple[Tensor, State]:
        said_BNS, real_BN1 = self._said(x_BND, loop, context)
        mean_BNS, present = self._running(said_BNS, real_BN1, state)
        return self._answer(x_BND, mean_BNS, loop), present

    def readers(self) -> list[Projection]:
        return [self.say, self.say_up, self.own, self.own_up]

    def learned(self) -> list[nn.Parameter]:
        return list(self.parameters())

    def _said(self, x_BND: Tensor, loop: int, context: Context) -> tuple[Tensor, Tensor]:
        """phi of the real tokens, 0 of padding (B,N,S), and 1 at real tokens (B,N,1), in FP32."""
        said_BNS = self.say(x_BND, loop) + self.say_down(self.activation(self.say_up(x_BND, loop)), loop)
        real_BN = context.real_BN(x_BND.shape[1])
        real_BN1 = torch.ones_like(x_BND[..., :1]) if real_BN is None else real_BN[..., None].to(x_BND.dtype)
        return wide(said_BNS) * wide(real_BN1), wide(real_BN1).expand(x_BND.shape[0], -1, -1)

    def _running(self, said_BNS: Tensor, real_BN1: Tensor, state: State) -> tuple[Tensor, State]:
        """The mean of all tokens up to each one (B,N,S), and the state after them."""
        place_N = torch.arange(said_BNS.shape[1], device=said_BNS.device)
        earlier_NN = (place_N <= place_N[:, None]).to(said_BNS.dtype)
        with in_full(said_BNS.device):
            sum_BNS = state[0][:, None] + earlier_NN @ said_BNS
            count_BN1 = state[1][:, None] + earlier_NN @ real_BN1
        present = state[0] + said_BNS.sum(dim=1), state[1] + real_BN1.sum(dim=1)
        return sum_BNS / count_BN1.clamp(min=1), present

    def _answer(self, x_BRD: Tensor, mean_BRS: Tensor, loop: int) -> Tensor:
        mean_BRS = mean_BRS.to(x_BRD.dtype)
        inner_BRI = self.activation(self.own_up(x_BRD, loop) + self.hear_up(mean_BRS, loop))
        return self.own(x_BRD, loop) + self.hear(mean_BRS, loop) + self.down(inner_BRI, loop)
