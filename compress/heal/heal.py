"""Healing by distillation: transfer of attention, of modules, then hidden states and logits.

B batch, N tokens, D hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import AutocastKwargs
from torch import Tensor

from compress.heal.anneal import is_blended, set_share, settled
from compress.heal.attention_transfer import AttentionTransfer
from compress.heal.checkpoint import Checkpoints
from compress.heal.loop import Loop
from compress.heal.lora import lora_parameters, merged, with_lora
from compress.heal.losses import changed_steps, contexts_fed, distilled, reducing_steps, relative_error, traced
from compress.heal.objective import CLASSIFICATION, Feed, Objective
from compress.heal.options import HealOptions
from compress.heal.training import Drawn
from compress.model.forms.loops import at_loops, kept_steps
from compress.model.sequence import Tokens, aligned
from compress.model.structure import output_targets
from compress.model.transformer import Transformer
from targets.errors import InputError

EVAL_BATCH = 256
#: Steps from which on compiling, half a minute, costs less time than it saves.
WORTH_COMPILING = 2000
#: Where no step came closer to the original, distillation begins again at this part of the rate, so often in all.
NEXT_RATE, RATES = 0.2, 3


class Progress(Protocol):
    """Told how far healing is, with numbers worth watching."""

    def __call__(self, done: float, total: float, note: str = "", **numbers: float) -> None: ...


@dataclass(frozen=True)
class Healed:
    """`model` in evaluation mode on the CPU. `drift`: the objective's, on held-out samples, before and after."""

    model: Transformer
    drift_before: float
    drift_after: float
    steps: int


def heal(
    model: Transformer,
    original: Transformer,
    train: Feed,
    held_out: Feed,
    options: HealOptions,
    accelerator: Accelerator,
    work: Path,
    progress: Progress,
    objective: Objective = CLASSIFICATION,
    log: Callable[[str], None] = print,
) -> Healed:
    """Train a copy of `model` towards `original`; the best state on `held_out` wins, or the untrained one.

    Where no step of distillation comes closer to the original, it begins again at a fifth of the rate, twice at most.

    Deterministic for a seed, device and number of threads, also when it was stopped and goes on from `work`.
    Raises InputError if the loss diverges or `options.loops` asks for loops that the model has none of.
    """
    if options.loops and accelerator.num_processes > 1:
        raise InputError("heal.loops is refused on several processes: they train one number of loops; leave it out")
    student = model.copy().to(accelerator.device).train()
    teacher = original.copy().to(accelerator.device).eval().requires_grad_(False)
    session = _Session(student, teacher, train, held_out, options, accelerator, work, progress, objective, log)
    set_share(student, 1.0)  # what ships is the new parts alone: they are what drifts and what is transferred to
    before, untrained = session.drift(), model.state_dict()
    if options.attention_steps:
        session.transfer_attention()
    if options.transfer_steps:
        session.transfer()
    steps = 0
    if options.steps:
        student, steps = _distilled(session)
    after = replace(session, student=student).drift()
    if after > before:
        student.load_state_dict(untrained)
        set_share(student, 1.0)
        after = before
    return Healed(settled(student.cpu().eval()), before, after, steps)


def _distilled(session: _Session) -> tuple[Transformer, int]:
    """The student after distillation at the first rate that brings it closer to the original, and the steps that it
    took; as it was if none does. Which rate a model bears depends on how little there is to heal."""
    student, options = session.student, session.options
    set_share(student, 1.0)
    start, drift = {name: tensor.clone() for name, tensor in student.state_dict().items()}, session.drift()
    steps = 0
    for attempt in range(RATES):
        trained = with_lora(student, options.lora, seed=0) if options.lora else student
        steps = replace(session, student=trained, attempt=attempt).distill()
        healed = merged(trained) if options.lora else trained
        if replace(session, student=healed).drift() < drift:
            return healed, steps
        student.load_state_dict(start)
        rate = options.lr * NEXT_RATE**attempt
        rest = f"again at {rate * NEXT_RATE:.1e}" if attempt + 1 < RATES else "the model stays as it was"
        session.log(f"no step came closer to the original at the rate {rate:.1e}; {rest}")
    return student, steps


@dataclass(frozen=True)
class _Session:
    student: Transformer
    teacher: Transformer
    train: Feed
    held_out: Feed
    options: HealOptions
    accelerator: Accelerator
    work: Path
    progress: Progress
    objective: Objective
    log: Callable[[str], None]
    attempt: int = 0

    @property
    def targets(self) -> list[int]:
        return output_targets(self.student.structure, self.teacher.structure)

    @cached_property
    def depths(self) -> list[Transformer]:
        """The student, and the student with each other number of loops; all over the same parameters."""
        return [self.student, *(at_loops(self.student, loops) for loops in self.options.loops)]

    @torch.no_grad()
    def drift(self) -> float:
        """Mean distance from the original's answers to the held-out samples."""
        total, count = 0.0, 0
        for inputs in self.held_out.judging(EVAL_BATCH):
            target, size = self.teacher(inputs), next(iter(inputs.values())).shape[0]
            for model in self.depths:
                distance = self.objective.drift(model.eval()(inputs), target, inputs)
                total, count = total + float(distance) * size, count + size
        for model in self.depths:
            model.train()
        if not math.isfinite(total):
            raise InputError("healing diverged: the model's answers are not finite; lower heal.lr or rewrite less")
        return total / count

    def transfer_attention(self) -> None:
        """Each new mixer alone: fed the original's hidden state, held to what the original's mixer gives."""
        transfer = AttentionTransfer.of(self.student, self.teacher)
        if not transfer.steps:
            return
        self.student.requires_grad_(False)  # gradients that nobody clears would be waiting for the next phase
        for parameter in transfer.parameters:
            parameter.requires_grad_(True)

        def loss(drawn: Drawn) -> Tensor:
            inputs, _ = self.train.batch(drawn.tensors)
            with self._autocast():
                return transfer.loss(inputs, self.options.attention_rows)

        Loop(
            accelerator=self.accelerator,
            module=self.student,
            parameters=transfer.parameters,
            steps=self.options.attention_steps,
            lr=self.options.attention_lr,
            draw=self._draw,
            loss=loss,
            tell=lambda step, value: self._tell(step, "attention", value),
            review=lambda step, averaged: True,
            checkpoints=Checkpoints(self.work, "attention", self.log),
            extra={},
        ).run()
        self.student.requires_grad_(True)

    def transfer(self) -> None:
        """Each changed block alone, or with those next to it: fed the original's hidden state, held to its output."""
        steps = changed_steps(self.student, self.teacher, self.targets)
        schedule = self.student.structure.schedule
        blocks = sorted({schedule[step].block for step in steps})
        if not blocks:
            return
        runs = transfer_runs(steps, self.options.transfer_span)
        reducing = reducing_steps(self.student)
        before = [run.start - 1 for run in runs if run.start]
        needed = [self.targets[step] for step in (*before, *steps, *reducing)]

        def loss(drawn: Drawn) -> Tensor:
            inputs, _ = self.train.batch(drawn.tensors)
            with torch.no_grad(), self._autocast():
                start = self.teacher.begun(inputs)
                _, hidden = traced(self.teacher, inputs, needed)
            by_target = dict(zip(needed, hidden, strict=True))
            contexts = contexts_fed(self.student, start.context, [by_target[self.targets[step]] for step in reducing])
            errors = []
            for run in runs:
                context = contexts[run.start]
                x_BND = aligned(by_target[self.targets[run.start - 1]] if run.start else start, context)
                for index in run:
                    with self._autocast():
                        block = self.student.block(schedule[index].block)
                        x_BND, context = block(x_BND, schedule[index].loop, context)
                    if index in steps:
                        errors.append(relative_error(Tokens(x_BND, context), by_target[self.targets[index]]))
            return torch.stack(errors).mean()

        Loop(
            accelerator=self.accelerator,
            module=self.student,
            parameters=[parameter for block in blocks for parameter in self.student.block(block).parameters()],
            steps=self.options.transfer_steps,
            lr=self.options.transfer_lr,
            draw=self._draw,
            loss=loss,
            tell=lambda step, value: self._tell(step + self.options.attention_steps, "transfer", value),
            review=lambda step, averaged: True,
            checkpoints=Checkpoints(self.work, "transfer", self.log),
            extra={},
        ).run()

    def distill(self) -> int:
        """End to end; returns how many steps ran before the drift stopped falling."""
        options = self.options
        trained: list[torch.nn.Module] = list(self.depths)
        if self.accelerator.num_processes > 1:
            trained = [self.accelerator.prepare_model(self.student)]
        matched = [self._matched(model) if options.hidden else ([], []) for model in self.depths]
        ask, differ = (self._compiled(function) for function in (traced, distilled))
        best: dict[str, Any] = {"drift": float("inf"), "stale": 0, "ran": 0, "state": {}}

        def draw(step: int) -> Drawn:
            set_share(self.student, min(1.0, step / max(1.0, options.anneal * options.steps)))
            return self._draw(step)._replace(variant=int(np.random.default_rng(step).integers(len(trained))))

        def loss(drawn: Drawn) -> Tensor:
            inputs, labels = self.train.batch(drawn.tensors)
            mine, theirs = matched[drawn.variant]
            with self._autocast():
                with torch.no_grad():
                    target = ask(self.teacher, inputs, theirs)
                value: Tensor = differ(self.objective, trained[drawn.variant], inputs, mine, options, target, labels)
            return value

        def review(step: int, averaged: AbstractContextManager[None]) -> bool:
            fading = is_blended(self.student) and step < options.anneal * options.steps
            if fading or (step % options.eval_every and step != options.steps):
                return True
            set_share(self.student, 1.0)
            best["ran"] = step
            with averaged:
                drift = self.drift()
                if drift < best["drift"]:
                    state = {name: tensor.detach().cpu().clone() for name, tensor in self.student.state_dict().items()}
                    best.update(drift=drift, stale=0, state=state)
                else:
                    best["stale"] += 1
            return best["stale"] < options.patience

        before = options.attention_steps + options.transfer_steps + self.attempt * options.steps
        Loop(
            accelerator=self.accelerator,
            module=self.student,
            parameters=lora_parameters(self.student) if options.lora else list(self.student.parameters()),
            steps=options.steps,
            lr=options.lr * NEXT_RATE**self.attempt,
            draw=draw,
            loss=loss,
            tell=lambda step, value: self._tell(before + step, "distil", value, drift=best["drift"]),
            review=review,
            checkpoints=Checkpoints(self.work, f"distill-{self.attempt}", self.log),
            extra=best,
            weight_decay=options.weight_decay,
            average=options.average,
        ).run()
        self.student.load_state_dict(best["state"])
        return int(best["ran"])

    def _matched(self, model: Transformer) -> tuple[list[int], list[int]]:
        """Steps whose hidden states are held to the original's, and the original's; loops beyond the student's have
        none."""
        pairs = kept_steps(model.structure, self.student.structure)
        return [step for step, _ in pairs], [self.targets[place] for _, place in pairs]

    def _compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Compiled on a GPU, where small models are bound by kernel launches, if there are steps enough of few
        shapes."""
        worth = self.options.steps >= WORTH_COMPILING and not self.train.many_shapes
        return torch.compile(function, dynamic=False) if worth and self.accelerator.device.type == "cuda" else function

    def _draw(self, step: int) -> Drawn:
        return Drawn(self.train.draw(step, self.options))

    def _autocast(self) -> AbstractContextManager[Any]:
        """Without a cache of cast weights, which would be of another step when a captured one is replayed."""
        return self.accelerator.autocast(AutocastKwargs(cache_enabled=False))

    def _tell(self, step: int, note: str, loss: float, **numbers: float) -> None:
        known = {name: number for name, number in numbers.items() if number != float("inf")}
        options = self.options
        total = options.attention_steps + options.transfer_steps + (self.attempt + 1) * options.steps
        self.progress(step, total, note, loss=loss, **known)


def transfer_runs(changed: Sequence[int], span: int) -> list[range]:
    """The steps of the schedule that are trained together: of every `span` of them, from the first changed to the
    last."""
    windows: dict[int, list[int]] = {}
    for step in changed:
        windows.setdefault(step // span, []).append(step)
    return [range(min(steps), max(steps) + 1) for steps in windows.values()]
