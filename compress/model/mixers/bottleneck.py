"""MobileBERT's layer between its narrowing and its widening map: attention and stacked feed-forwards, less wide.

B batch, N tokens, D hidden size, W width inside, H heads.
"""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt, model_validator
from torch import Tensor, nn

from compress.model.activations import ActivationName
from compress.model.attention import Look, attend, attention_mask, join_heads, probabilities, split_heads
from compress.model.ffns.mlp import MlpSpec
from compress.model.mixer import Mixer, MixerSpec
from compress.model.norms import NormSpec
from compress.model.projection import Projection
from compress.model.sequence import Context


class BottleneckSpec(MixerSpec):
    """h = n(x We), a = n(x Wa), h = n(h + softmax attention of a Wq, a Wk and x Wv), then `feeds` times
    h = n(h + ffn(h)), and y = h Wl (Sun et al., arXiv 2004.02984). n is a norm of its own each time; looks both
    ways."""

    kind: Literal["bottleneck"] = "bottleneck"
    width: PositiveInt
    num_heads: PositiveInt
    feeds: PositiveInt
    intermediate_size: PositiveInt
    activation: ActivationName = "relu"
    norm: NormSpec

    @model_validator(mode="after")
    def _heads_divide(self) -> BottleneckSpec:
        if self.width % self.num_heads:
            raise ValueError(f"a width of {self.width} does not divide into {self.num_heads} heads")
        return self

    def build(self, hidden_size: int, loops: int) -> Bottleneck:
        return Bottleneck(self, hidden_size, loops)


class Bottleneck(Mixer):
    def __init__(self, spec: BottleneckSpec, hidden_size: int, loops: int) -> None:
        super().__init__()
        self.spec, width = spec, spec.width
        ffn = MlpSpec(intermediate_size=spec.intermediate_size, activation=spec.activation)
        self.enter, self.asked, self.value = (Projection(hidden_size, width, loops=loops) for _ in range(3))
        self.query, self.key, self.output = (Projection(width, width, loops=loops) for _ in range(3))
        self.leave = Projection(width, hidden_size, loops=loops)
        self.enter_norm, self.asked_norm, self.mixer_norm = (spec.norm.build(width, loops) for _ in range(3))
        self.feeds = nn.ModuleList(ffn.build(width, loops) for _ in range(spec.feeds))
        self.feed_norms = nn.ModuleList(spec.norm.build(width, loops) for _ in range(spec.feeds))

    def forward(self, x_BND: Tensor, loop: int, context: Context) -> Tensor:
        rows, look = context.rows, self._look(x_BND, context)
        q_BHNK, k_BHNK = self._asked(x_BND, loop, context)
        mixed_BHNK = attend(
            q_BHNK, k_BHNK, split_heads(self.value(x_BND, loop), self.spec.num_heads), look, self._scale
        )
        h_BNW = self.enter_norm(self.enter(x_BND[:, :rows], loop), loop)
        h_BNW = self.mixer_norm(h_BNW + self.output(join_heads(mixed_BHNK), loop), loop)
        for ffn, norm in zip(self.feeds, self.feed_norms, strict=True):
            h_BNW = norm(h_BNW + ffn(h_BNW, loop), loop)
        return self.leave(h_BNW, loop)

    def attention(self, x_BND: Tensor, loop: int, context: Context) -> Tensor:
        return probabilities(*self._asked(x_BND, loop, context), self._look(x_BND, context), self._scale)

    def readers(self) -> list[Projection]:
        return [self.enter, self.asked, self.value]

    @property
    def _scale(self) -> float:
        return float((self.spec.width // self.spec.num_heads) ** -0.5)

    def _look(self, x_BND: Tensor, context: Context) -> Look:
        return Look(attention_mask(context, x_BND.shape[1], False, x_BND.device))

    def _asked(self, x_BND: Tensor, loop: int, context: Context) -> tuple[Tensor, Tensor]:
        """Queries (B,H,rows,K) and keys (B,H,N,K), which read the same narrow tokens."""
        a_BNW = self.asked_norm(self.asked(x_BND, loop), loop)
        q_BNW, k_BNW = self.query(a_BNW[:, : context.rows], loop), self.key(a_BNW, loop)
        return split_heads(q_BNW, self.spec.num_heads), split_heads(k_BNW, self.spec.num_heads)
