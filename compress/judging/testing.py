"""For a team's own test-suite: a model that drifted fails a test."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from compress.verification.report_data import ReportData


def assert_no_drift(
    reference: str | Path,
    candidate: str | Path,
    data: str | Path | None = None,
    *,
    max_drop: float | None = None,
    gate: Path | None = None,
    part: Literal["evaluation", "all"] = "evaluation",
    stop_early: bool = False,
    baseline: Path | None = None,
    slices: Path | None = None,
) -> ReportData:
    """The report of `python -m compress.verify` with these arguments, if it passed.

    Raises AssertionError with every check that did not pass; InputError and EnvironmentLacks as the command does.
    """
    from compress.judging.evaluate import evaluate
    from compress.judging.options import Options
    from compress.verification.outcome import Status
    from compress.verification.report.cases import cases

    location = None if data is None else str(data)
    options = Options(
        str(reference),
        str(candidate),
        location,
        part=part,
        gate=gate,
        max_drop=max_drop,
        stop_early=stop_early,
        baseline=baseline,
        slices=slices,
    )
    report = evaluate(options).report
    if report.verdict is not Status.PASS:
        failed = [f"{case.name}: {case.message}" for case in cases(report) if case.status is not Status.PASS]
        raise AssertionError(f"{candidate} drifted from {reference} ({report.verdict.value})\n" + "\n".join(failed))
    return report
