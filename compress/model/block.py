"""One block: norm, mixer, norm, feed-forward, with a declared place of the residual.

B batch, N tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from pydantic import PositiveInt, model_validator
from torch import Tensor, nn

from compress.model import ffns as _ffns  # noqa: F401  (registers the kinds)
from compress.model import mixers as _mixers  # noqa: F401
from compress.model.ffn import AnyFfn, Ffn
from compress.model.mixer import AnyMixer, Context, Mixer, State, StateSpec
from compress.model.norms import Norm, NormSpec
from compress.model.per_loop import LevelSignal, OutputGain, PerLoopSpec, add_deltas
from compress.spec import Spec

Site = Literal["mixer.in", "mixer.out", "ffn.in", "ffn.out", "out"]
Observer = Callable[[Site, Tensor], None]
Mix = Callable[[Tensor], Tensor]


def _ignore(site: Site, x_BND: Tensor) -> None:
    pass


class BlockSpec(Spec):
    """residual `pre`: x + mixer(norm(x)), then x + ffn(norm(x)); `post`: norm(x + mixer(x)), norm(x + ffn(x));
    `parallel`: x + mixer(norm(x)) + ffn(norm(x)). `loops`: how often the schedule runs the block; what differs
    per loop (gains, biases and what `per_loop` says) is indexed by the loop. A missing mixer or ffn adds nothing.
    `keep_tokens`: only the first so many tokens leave the block; the others were read for the last time."""

    mixer: AnyMixer | None
    mixer_norm: NormSpec | None
    ffn: AnyFfn | None
    ffn_norm: NormSpec | None
    residual: Literal["pre", "post", "parallel"] = "pre"
    loops: PositiveInt = 1
    per_loop: PerLoopSpec = PerLoopSpec()
    keep_tokens: PositiveInt | None = None

    @model_validator(mode="after")
    def _timestep_has_gains_to_read(self) -> BlockSpec:
        norms = [norm for half, norm in ((self.mixer, self.mixer_norm), (self.ffn, self.ffn_norm)) if half is not None]
        if self.per_loop.timestep and (
            self.residual != "pre" or any(norm is None or not norm.affine for norm in norms)
        ):
            raise ValueError("timestep gains need a pre-norm block whose norms have gains")
        return self

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
        self.mixer_gain: OutputGain | None = None
        self.ffn_gain: OutputGain | None = None
        self.ffn_signal: LevelSignal | None = None
        self._tell_loops_apart(spec, hidden_size)

    def _tell_loops_apart(self, spec: BlockSpec, hidden_size: int) -> None:
        own, loops = spec.per_loop, spec.loops
        for half, rank in zip((self.mixer, self.ffn), own.delta_ranks, strict=True):
            if half is not None and rank:
                add_deltas(half, rank, loops)
        if own.signal_rank and self.mixer is not None:
            for reader in self.mixer.readers() or []:
                reader.add_deltas(own.delta_rank + own.signal_rank, loops)
        if own.signal_rank and self.ffn is not None:
            self.ffn_signal = LevelSignal(hidden_size, own.signal_rank, loops)
        if own.timestep:
            self.mixer_gain = OutputGain(hidden_size, loops) if self.mixer is not None else None
            self.ffn_gain = OutputGain(hidden_size, loops) if self.ffn is not None else None

    def forward(self, x_BND: Tensor, loop: int, context: Context, observe: Observer = _ignore) -> Tensor:
        """The block's output (B,N,D); `observe` is shown the input and output of both halves on the way."""
        mixer, rows = self.mixer, replace(context, rows=self.keep_tokens)
        mix = None if mixer is None else lambda x_BND: mixer(x_BND, loop, rows)
        return self._run(x_BND, loop, mix, observe)

    def mixed(self, x_BND: Tensor, loop: int, context: Context) -> dict[Site, Tensor]:
        """The input and output of the mixer, as `forward` would show them, without the rest of the block."""
        mixer, rows, seen = self.mixer, replace(context, rows=self.keep_tokens), dict[Site, Tensor]()
        assert mixer is not None
        if self.residual != "post":
            x_BND = _norm(self.mixer_norm, x_BND, loop)
        self._mixed(lambda x_BND: mixer(x_BND, loop, rows), x_BND, loop, seen.__setitem__)
        return seen

    def state_spec(self) -> tuple[StateSpec, ...] | None:
        """See `Mixer.state_spec`."""
        return () if self.mixer is None else self.mixer.state_spec()

    def chunk(self, x_BND: Tensor, state: State, loop: int, context: Context) -> tuple[Tensor, State]:
        """See `Mixer.chunk`."""
        mixer, after = self.mixer, state
        if mixer is None:
            return self._run(x_BND, loop, None, _ignore), state

        def mix(x_BND: Tensor) -> Tensor:
            nonlocal after
            y_BND, after = mixer.chunk(x_BND, state, loop, context)
            return y_BND

        y_BND = self._run(x_BND, loop, mix, _ignore)
        return y_BND, after

    def _run(self, x_BND: Tensor, loop: int, mix: Mix | None, observe: Observer) -> Tensor:
        kept_BND = x_BND[:, : self.keep_tokens]
        if self.residual == "post":
            x_BND = _norm(self.mixer_norm, kept_BND + self._mixed(mix, x_BND, loop, observe), loop)
            x_BND = _norm(self.ffn_norm, x_BND + self._feed(x_BND, loop, observe), loop)
        elif self.residual == "parallel":
            mixed_BND = self._mixed(mix, _norm(self.mixer_norm, x_BND, loop), loop, observe)
            x_BND = kept_BND + mixed_BND + self._feed(_norm(self.ffn_norm, kept_BND, loop), loop, observe)
        else:
            x_BND = kept_BND + self._mixed(mix, _norm(self.mixer_norm, x_BND, loop), loop, observe)
            x_BND = x_BND + self._feed(_norm(self.ffn_norm, x_BND, loop), loop, observe)
        observe("out", x_BND)
        return x_BND

    def _mixed(self, mix: Mix | None, x_BND: Tensor, loop: int, observe: Observer) -> Tensor | float:
        if mix is None:
            return 0.0
        observe("mixer.in", x_BND)
        y_BND = mix(x_BND)
        if self.mixer_gain is not None:
            y_BND = self.mixer_gain(y_BND, loop)
        observe("mixer.out", y_BND)
        return y_BND

    def _feed(self, x_BND: Tensor, loop: int, observe: Observer) -> Tensor | float:
        if self.ffn is None:
            return 0.0
        if self.ffn_signal is not None:
            x_BND = self.ffn_signal(x_BND, loop)
        observe("ffn.in", x_BND)
        y_BND = self.ffn(x_BND, loop)
        if self.ffn_gain is not None:
            y_BND = self.ffn_gain(y_BND, loop)
        observe("ffn.out", y_BND)
        return y_BND


def _norm(norm: Norm | None, x_BND: Tensor, loop: int) -> Tensor:
    return x_BND if norm is None else norm(x_BND, loop)
