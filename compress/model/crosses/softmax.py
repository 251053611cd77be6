"""Softmax attention to an encoder's tokens. B batch, N tokens, S tokens of the source, H heads, K query/key size."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from compress.model.attention import Look, probabilities
from compress.model.cross import SOURCE, Cross, CrossSpec
from compress.model.mixer import StateSpec
from compress.model.sequence import Context, Memory


class SoftmaxCrossSpec(CrossSpec):
    """y_i = values(softmax_s(q_i . k_s)) over the real tokens s of the source (Vaswani et al. 2017, arXiv 1706.03762).
    Kept are keys (G,S,K) and values (G,S,V)."""

    kind: Literal["softmax"] = "softmax"

    def build(self, hidden_size: int, loops: int) -> SoftmaxCross:
        return SoftmaxCross(self, hidden_size, loops)


class SoftmaxCross(Cross):
    def __init__(self, spec: SoftmaxCrossSpec, hidden_size: int, loops: int) -> None:
        super().__init__(spec, hidden_size, loops)
        self.spec = spec

    def keep(self, memory: Memory, loop: int) -> tuple[Tensor, ...]:
        assert memory.x_BSD is not None
        return self.scores.keys(memory.x_BSD, loop), self.values.carry(memory.x_BSD, loop)

    def read(self, x_BND: Tensor, loop: int, kept: tuple[Tensor, ...], mask_BS: Tensor | None) -> Tensor:
        k_BGSK, v_BGSV = kept
        return self.values.mix(self.scores.queries(x_BND, loop), k_BGSK, v_BGSV, _look(mask_BS), loop)

    def kept_spec(self) -> tuple[StateSpec, ...]:
        groups, size = self.spec.scores.num_kv_heads, self.spec.scores.head_dim
        width = self.spec.values.head_dim
        return StateSpec("key", (groups, SOURCE, size)), StateSpec("value", (groups, SOURCE, width))

    def attention(self, x_BND: Tensor, loop: int, context: Context) -> Tensor:
        memory = context.memory
        assert memory is not None and memory.x_BSD is not None
        keys_BGSK = self.scores.keys(memory.x_BSD, loop)
        return probabilities(self.scores.queries(x_BND, loop), keys_BGSK, _look(memory.mask_BS))


def _look(mask_BS: Tensor | None) -> Look:
    return Look(None if mask_BS is None else mask_BS[:, None, None, :].bool())
