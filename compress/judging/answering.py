"""Both sides' answers: of models to the samples, of files as they were recorded."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.judging.compare import Answered
from compress.judging.options import DEFAULT_MAX_DROP
from targets.errors import InputError

if TYPE_CHECKING:
    from compress.judging.options import Options
    from compress.judging.questions import Questions
    from compress.judging.side import Side
    from compress.verification.gate import Gate
    from compress.verification.samples import Samples

#: How often --stop-early may give another verdict than all samples would.
STOP_EARLY_ERROR = 0.001


def both(questions: Questions | None) -> tuple[Side | None, Side | None]:
    """Reference and candidate; None where the answers come from a file."""
    return (None, None) if questions is None else (questions.reference, questions.candidate)


def answer(options: Options, questions: Questions | None, gate: Gate | None) -> tuple[Answered, Gate]:
    """Both sides' samples, and the gate that they are judged by.

    The sides run one after the other: two thread pools at once would fight for the cores.
    """
    import numpy as np

    early = options.stop_early or (gate is not None and gate.stop_early is not None)
    if early and questions is not None and len(questions.sides) == 2:
        return _answer_until_certain(options, questions, gate)
    if options.stop_early:
        raise InputError("--stop-early is for two models that are run; a file of predictions is read whole")
    given = zip((options.reference, options.candidate), both(questions), strict=True)
    reference, candidate = (_samples(spec, side, questions) for spec, side in given)
    indices = None if questions is None else np.arange(len(candidate))
    metric = candidate.metrics[0].name if questions is None else questions.task.metric
    return Answered(reference, candidate, indices), gate or _default_gate(options, metric)


def _samples(spec: str, side: Side | None, questions: Questions | None) -> Samples:
    from compress.verification import files

    if side is None or questions is None:
        return files.load(Path(spec))
    with _progress(spec, len(questions)) as advance:
        return questions.answers(side, advance)


def _answer_until_certain(options: Options, questions: Questions, gate: Gate | None) -> tuple[Answered, Gate]:
    """The sides take turns on parts of the data, in random order, until the gate's verdict is certain."""
    import numpy as np

    from compress.verification.distinct import places_of_different
    from compress.verification.early import EarlyStop
    from compress.verification.metrics import METRICS
    from compress.verification.samples import concatenate

    if not METRICS[questions.task.metric].rate:
        raise InputError("stopping early is for the accuracy of classifiers; leave --stop-early (stop_early) out")
    gate = gate or _default_gate(options, questions.task.metric)
    if gate.stop_early is None:
        gate = gate.model_copy(update={"stop_early": STOP_EARLY_ERROR})
    different = places_of_different(questions.fingerprints())
    size = len(different)
    order = np.random.default_rng(gate.seed).permutation(different)
    test = EarlyStop(gate, size)
    parts: tuple[list[Samples], list[Samples]] = ([], [])
    seen = 0
    with _progress(f"{options.reference} and {options.candidate}", 2 * size) as advance:
        for look in test.look_points():
            for side, answers in zip(questions.sides, parts, strict=True):
                answers.append(questions.answers(side, advance, order[seen:look]))
            seen = look
            reference, candidate = concatenate(parts[0]), concatenate(parts[1])
            decision = test.decide(reference, candidate) if seen < size else None
            if decision is not None:
                break
    in_order = np.argsort(order[:seen])
    sides, indices = (reference.take(in_order), candidate.take(in_order)), order[:seen][in_order]
    return Answered(*sides, indices, decision, len(questions) - size), gate


def _default_gate(options: Options, metric: str) -> Gate:
    from compress.verification.gate import default_gate

    return default_gate(metric, DEFAULT_MAX_DROP if options.max_drop is None else options.max_drop)


def _progress(name: str, total: int | None) -> AbstractContextManager[Any]:
    """A context manager whose value takes how many samples are done; it shows nothing off a terminal."""
    if not sys.stderr.isatty():
        return nullcontext(lambda samples: None)
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    @contextmanager
    def shown() -> Any:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(name, total=total)
            yield lambda samples: progress.advance(task, samples)

    return shown()
