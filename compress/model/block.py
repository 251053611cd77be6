"""One block: norm, mixer, norm, feed-forward, with a declared place of the residual.

B batch, N tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from pydantic import PositiveInt
from torch import Tensor, nn

from compress.model import ffns as _ffns  # noqa: F401  (registers the kinds)
from compress.model import mixers as _mixers  # noqa: F401
from compress.model.ffn import AnyFfn, Ffn
from compress.model.mixer import AnyMixer, Context, Mixer
from compress.model.norms import Norm, NormSpec
from compress.spec import Spec

Site = Literal["mixer.in", "mixer.out", "ffn.in", "ffn.out", "out"]
Observer = Callable[[Site, Tensor], None]


def _ignore(site: Site, x_BND: Tensor) -> None:
    pass


class BlockSpec(Spec):
    """residual `pre`: x + mixer(norm(x)), then x + ffn(norm(x)); `post`: norm(x + mixer(x)), norm(x + ffn(x));
    `parallel`: x + mixer(norm(x)) + ffn(norm(x)). `loops`: how often the schedule runs the block; what differs
    per loop (gains, biases) is indexed by the loop. A missing mixer or ffn adds nothing.
    `keep_tokens`: only the first so many tokens leave the block; the others were read for the last time."""

    mixer: AnyMixer | None
    mixer_norm: NormSpec | None
    ffn: AnyFfn | None
    ffn_norm: NormSpec | None
    residual: Literal["pre", "post", "parallel"] = "pre"
    loops: PositiveInt = 1
    keep_tokens: PositiveInt | None = None

    def build(self, hidden_size: int) -> Block:
        return Block(self, hidden_size)


class Block(nn.Module):
    mixer: Mixer | None
    ffn: Ffn | None
    mixer_norm: Norm | None
    ffn_norm: Norm | None

    def __init__(self, spec: BlockSpec, hidden_size: int) -> None:
        super().__init__()
        self.residual = spec.residual
        self.keep_tokens = spec.keep_tokens
        self.mixer = spec.mixer.build(hidden_size, spec.loops) if spec.mixer else None
        self.mixer_norm = spec.mixer_norm.build(hidden_size, spec.loops) if spec.mixer_norm else None
        self.ffn = spec.ffn.build(hidden_size, spec.loops) if spec.ffn else None
        self.ffn_norm = spec.ffn_norm.build(hidden_size, spec.loops) if spec.ffn_norm else None

    def forward(self, x_BND: Tensor, loop: int, context: Context, observe: Observer = _ignore) -> Tensor:
        """The block's output (B,N,D); `observe` is shown the input and output of both halves on the way."""
        context = replace(context, rows=self.keep_tokens)
        kept_BND = x_BND[:, : self.keep_tokens]
        if self.residual == "post":
            x_BND = _norm(self.mixer_norm, kept_BND + self._mix(x_BND, loop, context, observe), loop)
            x_BND = _norm(self.ffn_norm, x_BND + self._feed(x_BND, loop, observe), loop)
        elif self.residual == "parallel":
            mixed_BND = self._mix(_norm(self.mixer_norm, x_BND, loop), loop, context, observe)
            x_BND = kept_BND + mixed_BND + self._feed(_norm(self.ffn_norm, kept_BND, loop), loop, observe)
        else:
            x_BND = kept_BND + self._mix(_norm(self.mixer_norm, x_BND, loop), loop, context, observe)
            x_BND = x_BND + self._feed(_norm(self.ffn_norm, x_BND, loop), loop, observe)
        observe("out", x_BND)
        return x_BND

    def _mix(self, x_BND: Tensor, loop: int, context: Context, observe: Observer) -> Tensor | float:
        if self.mixer is None:
            return 0.0
        observe("mixer.in", x_BND)
        y_BND = self.mixer(x_BND, loop, context)
        observe("mixer.out", y_BND)
        return y_BND

    def _feed(self, x_BND: Tensor, loop: int, observe: Observer) -> Tensor | float:
        if self.ffn is None:
            return 0.0
        observe("ffn.in", x_BND)
        y_BND = self.ffn(x_BND, loop)
        observe("ffn.out", y_BND)
        return y_BND


def _norm(norm: Norm | None, x_BND: Tensor, loop: int) -> Tensor:
    return x_BND if norm is None else norm(x_BND, loop)
