"""One block: norm, mixer, norm, feed-forward, with a declared place of the residual; in a decoder that reads an encoder
norm and cross-attention between the two.

B batch, N tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import PositiveInt, model_validator
from torch import Tensor, nn

from compress.model import crosses as _crosses  # noqa: F401  (registers the kinds)
from compress.model import ffns as _ffns  # noqa: F401
from compress.model import mixers as _mixers  # noqa: F401
from compress.model import reducers as _reducers  # noqa: F401
from compress.model.cross import AnyCross, Cross
from compress.model.ffn import AnyFfn, Ffn
from compress.model.mixer import AnyMixer, Mixer, State, StateSpec
from compress.model.norms import Norm, NormSpec
from compress.model.per_loop import LevelSignal, OutputGain, PerLoopSpec, add_deltas
from compress.model.reducer import AnyReducer
from compress.model.reducers.first import First
from compress.model.sequence import Context, Tokens
from compress.spec import Spec

#: Where a block shows its tokens: around both halves, then its output before (`whole`) and after the reducer.
Site = Literal["mixer.in", "mixer.out", "cross.in", "cross.out", "ffn.in", "ffn.out", "whole", "out"]
Observer = Callable[[Site, Tokens], None]
Mix = Callable[[Tensor], Tensor]


def _ignore(site: Site, tokens: Tokens) -> None:
    pass


class BlockSpec(Spec):
    """residual `pre`: x + mixer(norm(x)), then x + ffn(norm(x)); `post`: norm(x + mixer(x)), norm(x + ffn(x));
    `parallel`: x + mixer(norm(x)) + ffn(norm(x)). `loops`: how often the schedule runs the block; what differs
    per loop (gains, biases and what `per_loop` says) is indexed by the loop. A missing mixer or ffn adds nothing.
    `mixer_out_norm`, `ffn_out_norm`: norms of what the halves give, before it is added (Gemma 2, OLMo 2).
    `reducer`: fewer tokens leave the block than came in. `cross`: reads an encoder's tokens between the two halves,
    with a norm of its own in the place that `residual` says. `positions`: of how many tokens each gets a
    learned vector as it enters the block (YOLOS)."""

    mixer: AnyMixer | None
    mixer_norm: NormSpec | None
    ffn: AnyFfn | None
    ffn_norm: NormSpec | None
    residual: Literal["pre", "post", "parallel"] = "pre"
    loops: PositiveInt = 1
    per_loop: PerLoopSpec = PerLoopSpec()
    mixer_out_norm: NormSpec | None = None
    ffn_out_norm: NormSpec | None = None
    reducer: AnyReducer | None = None
    cross: AnyCross | None = None
    cross_norm: NormSpec | None = None
    positions: PositiveInt | None = None

    @model_validator(mode="before")
    @classmethod
    def _kept_tokens_are_a_reducer(cls, value: Any) -> Any:
        """Older files say `keep_tokens`: the number of first tokens that leave the block."""
        if not isinstance(value, dict) or "keep_tokens" not in value:
            return value
        rest = {key: one for key, one in value.items() if key != "keep_tokens"}
        kept = value["keep_tokens"]
        return rest if kept is None else {**rest, "reducer": {"kind": "first", "count": kept}}

    @model_validator(mode="after")
    def _timestep_has_gains_to_read(self) -> BlockSpec:
        norms = [norm for half, norm in ((self.mixer, self.mixer_norm), (self.ffn, self.ffn_norm)) if half is not None]
        if self.per_loop.timestep and (
            self.residual != "pre" or any(norm is None or not norm.affine for norm in norms)
        ):
            raise ValueError("timestep gains need a pre-norm block whose norms have gains")
        return self

    @model_validator(mode="after")
    def _cross_attention_stands_between_halves(self) -> BlockSpec:
        if self.cross is not None and self.residual == "parallel":
            raise ValueError("a block whose halves stand beside each other has no place between them for `cross`")
        return self

    @model_validator(mode="after")
    def _tokens_are_reduced_once(self) -> BlockSpec:
        if self.loops > 1 and self.reducer is not None and self.reducer.leading is None:
            raise ValueError("a block that is looped cannot have a reducer: it would work in every loop")
        return self

    @property
    def leading(self) -> int | None:
        """How many leading tokens are all that leaves the block; None if all tokens are worked on."""
        return None if self.reducer is None else self.reducer.leading

    def build(self, hidden_size: int) -> Block:
        return Block(self, hidden_size)


class Block(nn.Module):
    mixer: Mixer | None
    ffn: Ffn | None
    mixer_norm: Norm | None
    ffn_norm: Norm | None
    cross: Cross | None
    cross_norm: Norm | None
    mixer_out_norm: Norm | None
    ffn_out_norm: Norm | None

    def __init__(self, spec: BlockSpec, hidden_size: int) -> None:
        super().__init__()
        self.residual = spec.residual
        self.reducer, self.leading = spec.reducer, spec.leading
        self.mixer = spec.mixer.build(hidden_size, spec.loops) if spec.mixer else None
        self.mixer_norm = spec.mixer_norm.build(hidden_size, spec.loops) if spec.mixer_norm else None
        self.ffn = spec.ffn.build(hidden_size, spec.loops) if spec.ffn else None
        self.ffn_norm = spec.ffn_norm.build(hidden_size, spec.loops) if spec.ffn_norm else None
        self.cross = spec.cross.build(hidden_size, spec.loops) if spec.cross else None
        self.cross_norm = _built(spec.cross_norm, spec.cross, hidden_size, spec.loops)
        self.mixer_out_norm = _built(spec.mixer_out_norm, spec.mixer, hidden_size, spec.loops)
        self.ffn_out_norm = _built(spec.ffn_out_norm, spec.ffn, hidden_size, spec.loops)
        self.mixer_gain: OutputGain | None = None
        self.cross_gain: OutputGain | None = None
        self.ffn_gain: OutputGain | None = None
        self.ffn_signal: LevelSignal | None = None
        self.position = nn.Parameter(torch.zeros(1, spec.positions, hidden_size)) if spec.positions else None
        self._tell_loops_apart(spec, hidden_size)

    def _tell_loops_apart(self, spec: BlockSpec, hidden_size: int) -> None:
        own, loops = spec.per_loop, spec.loops
        ranks = own.delta_ranks
        for half, rank in zip((self.mixer, self.cross, self.ffn), (ranks[0], *ranks), strict=True):
            if half is not None and rank:
                add_deltas(half, rank, loops)
        if own.signal_rank and self.mixer is not None:
            for reader in self.mixer.readers() or []:
                reader.add_deltas(own.delta_rank + own.signal_rank, loops)
        if own.signal_rank and self.ffn is not None:
            self.ffn_signal = LevelSignal(hidden_size, own.signal_rank, loops)
        if own.timestep:
            self.mixer_gain = OutputGain(hidden_size, loops) if self.mixer is not None else None
            self.cross_gain = OutputGain(hidden_size, loops) if self.cross is not None else None
            self.ffn_gain = OutputGain(hidden_size, loops) if self.ffn is not None else None

    def forward(
        self, x_BND: Tensor, loop: int, context: Context, observe: Observer = _ignore
    ) -> tuple[Tensor, Context]:
        """The block's output (B,N,D), and the context of the tokens that leave it; `observe` is shown what passes the
        sites on the way."""
        mixer, asked = self.mixer, replace(context, rows=self.leading)
        mix = None if mixer is None else lambda x_BND: mixer(x_BND, loop, asked)
        x_BND = self._run(self._placed(x_BND), loop, mix, context, observe)
        left = Tokens(x_BND, self._worked_on(context))
        observe("whole", left)
        if self.reducer is not None and self.leading is None:
            left = left.reduced(self.reducer.reduction(*left))
        observe("out", left)
        return left

    def mixed(self, x_BND: Tensor, loop: int, context: Context) -> dict[Site, Tokens]:
        """The input and output of the mixer, as `forward` would show them, without the rest of the block."""
        mixer, asked, seen = self.mixer, replace(context, rows=self.leading), dict[Site, Tokens]()
        assert mixer is not None
        x_BND = self._placed(x_BND)
        if self.residual != "post":
            x_BND = _norm(self.mixer_norm, x_BND, loop)
        self._mixed(lambda x_BND: mixer(x_BND, loop, asked), x_BND, loop, context, seen.__setitem__)
        return seen

    def attention(self, tokens: Tokens, loop: int) -> Tensor | None:
        """The attention rows (B,H,N,M) of the mixer for what it sees; None if it has none."""
        if self.mixer is None:
            return None
        return self.mixer.attention(tokens.x_BND, loop, replace(tokens.context, rows=self.leading))

    def state_spec(self) -> tuple[StateSpec, ...] | None:
        """See `Mixer.state_spec`; None too for a block that tokens do not leave one by one."""
        if self.reducer is not None or self.position is not None:
            return None
        return () if self.mixer is None else self.mixer.state_spec()

    def chunk(self, x_BND: Tensor, state: State, loop: int, context: Context) -> tuple[Tensor, State]:
        """See `Mixer.chunk`."""
        mixer, after = self.mixer, state
        if mixer is None:
            return self._run(x_BND, loop, None, context, _ignore), state

        def mix(x_BND: Tensor) -> Tensor:
            nonlocal after
            y_BND, after = mixer.chunk(x_BND, state, loop, context)
            return y_BND

        y_BND = self._run(x_BND, loop, mix, context, _ignore)
        return y_BND, after

    def _placed(self, x_BND: Tensor) -> Tensor:
        return x_BND if self.position is None else x_BND + self.position

    def _worked_on(self, context: Context) -> Context:
        """The context of the tokens that the block gives, before the reducer."""
        return context if self.leading is None else context.reduced(First(self.leading))

    def _run(self, x_BND: Tensor, loop: int, mix: Mix | None, context: Context, observe: Observer) -> Tensor:
        kept_BND, after = x_BND[:, : self.leading], self._worked_on(context)
        if self.residual == "post":
            x_BND = _norm(self.mixer_norm, kept_BND + self._mixed(mix, x_BND, loop, context, observe), loop)
            if self.cross is not None:
                x_BND = _norm(self.cross_norm, x_BND + self._crossed(self.cross, x_BND, loop, after, observe), loop)
            return _norm(self.ffn_norm, x_BND + self._feed(x_BND, loop, after, observe), loop)
        mixed_BND = self._mixed(mix, _norm(self.mixer_norm, x_BND, loop), loop, context, observe)
        if self.residual == "parallel":
            return kept_BND + mixed_BND + self._feed(_norm(self.ffn_norm, kept_BND, loop), loop, after, observe)
        x_BND = kept_BND + mixed_BND
        if self.cross is not None:
            normed_BND = _norm(self.cross_norm, x_BND, loop)
            x_BND = x_BND + self._crossed(self.cross, normed_BND, loop, after, observe)
        return x_BND + self._feed(_norm(self.ffn_norm, x_BND, loop), loop, after, observe)

    def _mixed(self, mix: Mix | None, x_BND: Tensor, loop: int, context: Context, observe: Observer) -> Tensor | float:
        if mix is None:
            return 0.0
        observe("mixer.in", Tokens(x_BND, context))
        y_BND = mix(x_BND)
        if self.mixer_gain is not None:
            y_BND = self.mixer_gain(y_BND, loop)
        observe("mixer.out", Tokens(y_BND, self._worked_on(context)))
        return _norm(self.mixer_out_norm, y_BND, loop)

    def _crossed(self, cross: Cross, x_BND: Tensor, loop: int, context: Context, observe: Observer) -> Tensor:
        observe("cross.in", Tokens(x_BND, context))
        y_BND = cross(x_BND, loop, context)
        if self.cross_gain is not None:
            y_BND = self.cross_gain(y_BND, loop)
        observe("cross.out", Tokens(y_BND, context))
        return y_BND

    def _feed(self, x_BND: Tensor, loop: int, context: Context, observe: Observer) -> Tensor | float:
        if self.ffn is None:
            return 0.0
        if self.ffn_signal is not None:
            x_BND = self.ffn_signal(x_BND, loop)
        observe("ffn.in", Tokens(x_BND, context))
        y_BND = self.ffn(x_BND, loop)
        if self.ffn_gain is not None:
            y_BND = self.ffn_gain(y_BND, loop)
        observe("ffn.out", Tokens(y_BND, context))
        return _norm(self.ffn_out_norm, y_BND, loop)


def _norm(norm: Norm | None, x_BND: Tensor, loop: int) -> Tensor:
    return x_BND if norm is None else norm(x_BND, loop)


def _built(norm: NormSpec | None, half: Spec | None, hidden_size: int, loops: int) -> Norm | None:
    """The norm of what half a block gives, if there are both."""
    return None if norm is None or half is None else norm.build(hidden_size, loops)
