"""A comparison from beginning to end: open, ask, judge, report."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from compress.judging.options import check_usage
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compress.judging.compare import Answered
    from compress.judging.options import Options
    from compress.judging.questions import Questions
    from compress.verification.drift import Drift
    from compress.verification.gate import Gate
    from compress.verification.report_data import ReportData
    from compress.verification.samples import Samples


class Outcome(NamedTuple):
    """The report, and what a new baseline is made of."""

    report: ReportData
    drift: Drift
    candidate: Samples


def evaluate(options: Options) -> Outcome:
    """Compare and judge, writing nothing.

    Raises InputError for wrong usage or input, EnvironmentLacks where a side cannot run here.
    """
    from compress.judging.answering import answer
    from compress.judging.compare import judge
    from compress.judging.reporting import origin, report_of
    from compress.verification import baseline as baselines
    from compress.verification.gate import load

    check_usage(options)
    given = None if options.gate is None else load(options.gate)
    accepted = None
    if options.baseline is not None and (options.baseline.exists() or not options.update_baseline):
        accepted = baselines.load(options.baseline)
    questions = _questions(options)
    answered, gate = answer(options, questions, given)
    if questions is not None:
        answered = answered.without_copies(questions)
    judged = judge(questions, answered, gate, _slices(options, questions, answered, gate))
    checks, drift = list(judged.checks), judged.drift
    if accepted is not None and not options.update_baseline:
        checks.append(baselines.check(accepted, answered.candidate, gate))
    report = report_of(options, questions, answered, drift, checks)
    if questions is not None:
        report = report.model_copy(update=origin(options, questions, answered, gate, report))
    if accepted is not None:
        report = report.model_copy(update={"curves": baselines.curves(accepted, drift, options.label)})
    return Outcome(report, drift, answered.candidate)


def _questions(options: Options) -> Questions | None:
    """The data and the sides that are models; None for two files of answers."""
    from compress.judging.questions import questions_of
    from compress.judging.side import is_predictions

    if not all(map(is_predictions, (options.reference, options.candidate))):
        return questions_of(options.reference, options.candidate, options.data, options.part)
    if options.steps or options.stop_early or options.slices:
        raise InputError("--step, --stop-early and --slices need models and --data, not two files of predictions")
    return None


def _slices(
    options: Options, questions: Questions | None, answered: Answered, gate: Gate
) -> dict[str, NDArray[np.bool_]]:
    """Parts of the samples seen that are judged by themselves: the user's, else those that the data suggest."""
    from compress.judging import slices

    if questions is None or answered.indices is None or len(answered.indices) > len(questions):
        return {}
    asked = options.slices is not None or any(check.per == "slice" for check in gate.check)
    if answered.decision is not None and not asked:
        return {}
    return questions.slices() if options.slices is None else slices.read(options.slices, questions.names)
