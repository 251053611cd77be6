"""What bundles tell of themselves: the answers they were made with, and the samples they were made from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from compress.data.seen import overlap
from compress.judging.questions import Questions
from compress.verification.outcome import Status
from compress.verification.report_data import ExtraCheck

if TYPE_CHECKING:
    from runtime.bundles.golden import GoldenResult


def check_bundles(questions: Questions) -> list[ExtraCheck]:
    """The checks of both sides; none of a side that is not a bundle."""
    checks = []
    for side in questions.sides:
        if side.golden is not None:
            checks.append(_check_golden(side.golden()))
        if side.seen is not None:
            checks.append(_check_unseen(side.seen, questions))
    return checks


def _check_golden(results: list[GoldenResult]) -> ExtraCheck:
    """That the model still gives the answers that it gave when its bundle was made."""
    worst = max(results, key=lambda result: result.max_error / result.atol if result.atol else result.max_error)
    text = f"{worst.name} off by {worst.max_error:.3g} at most, allowed {worst.atol:.3g}"
    if all(results):
        return ExtraCheck(name="golden samples", status=Status.PASS, message=f"answers as when it was made: {text}")
    return ExtraCheck(name="golden samples", status=Status.ERROR, message=f"answers otherwise than when made: {text}")


def _check_unseen(seen: NDArray[np.uint64], questions: Questions) -> ExtraCheck:
    """That the model was not made from the samples that it is judged on. `seen`: their fingerprints."""
    places, name = overlap(questions.fingerprints(), seen), "unseen samples"
    if len(places) == 0:
        message = f"none of the {len(questions):,} samples is one that the model was calibrated or healed on"
        return ExtraCheck(name=name, status=Status.PASS, message=message)
    message = f"{len(places):,} of {len(questions):,} samples are ones that the model was calibrated or healed on"
    return ExtraCheck(name=name, status=Status.ERROR, message=f"{message} (first: {questions.names[places[0]]})")
