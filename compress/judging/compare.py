"""The comparison itself: the drift of a candidate from its reference, judged, and what else must hold of it.

Both `compress.verify` and a run's own verify stage call it, so that one bundle has one verdict.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from compress.judging.bundles import check_bundles
from compress.judging.fresh import check_fresh
from compress.judging.soundness import check_sound
from compress.judging.streaming import check_streams
from compress.verification.distinct import places_of_different
from compress.verification.drift import Drift, compare
from compress.verification.outcome import Status, combined_status
from compress.verification.report_data import ExtraCheck

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compress.judging.questions import Questions
    from compress.verification.early import Decision
    from compress.verification.gate import Gate, Slices
    from compress.verification.samples import Samples


@dataclass(frozen=True)
class Answered:
    """What both sides answered. `indices`: of the samples, in the data; None where the answers come from files.
    `decision`: what was certain before all samples were seen. `copies`: samples left out for the content of others."""

    reference: Samples
    candidate: Samples
    indices: NDArray[np.int64] | None = None
    decision: Decision | None = None
    copies: int = 0

    def without_copies(self, questions: Questions) -> Answered:
        """Each content once."""
        if self.indices is None or not len(self.indices) == len(self.candidate) == len(self.reference):
            return self
        fingerprints = questions.fingerprints()
        places = places_of_different([fingerprints[index] for index in self.indices], self.candidate)
        return Answered(
            self.reference.take(places),
            self.candidate.take(places),
            self.indices[places],
            self.decision,
            len(self.indices) - len(places) + self.copies,
        )

    def drift(self, gate: Gate, slices: Slices) -> Drift:
        """The drift alone. `slices`: masks over all of the data."""
        indices = self.indices
        masks = slices if indices is None else {name: mask[indices] for name, mask in slices.items()}
        return compare(self.reference, self.candidate, gate, masks, self.decision, self.copies)


@dataclass(frozen=True)
class Judged:
    """The drift and the checks beside it. True where all of it passes."""

    drift: Drift
    checks: tuple[ExtraCheck, ...]

    def __bool__(self) -> bool:
        return self.status is Status.PASS

    @property
    def status(self) -> Status:
        """The worst of all."""
        return combined_status([self.drift.status, *(check.status for check in self.checks)])


def judge(questions: Questions | None, answered: Answered, gate: Gate, slices: Slices) -> Judged:
    """Compare and judge. Without `questions` both sides are files of answers, and there is nothing to ask. `slices`:
    masks over all of the data.

    That the candidate is a model, sound, not the reference's answers by another name and not made from the data, is
    part of the verdict.
    """
    drift = answered.drift(gate, slices)
    if questions is None:
        return Judged(drift, _recorded(drift))
    checks = [*check_bundles(questions), *check_sound(questions), *check_streams(questions)]
    if answered.indices is not None and len(questions.sides) == 2 and drift.metrics:
        checks.append(check_fresh(questions, answered.reference, answered.candidate, answered.indices, drift.identical))
    recorded = _recorded(drift) if questions.candidate is None else ()
    return Judged(drift, (*checks, *recorded))


def _recorded(drift: Drift) -> tuple[ExtraCheck, ...]:
    """That a file of answers holds the candidate's own."""
    if not drift.identical:
        return ()
    message = "the candidate's file holds the reference's answers bit for bit; record the candidate's own"
    return (ExtraCheck(name="recorded answers", status=Status.ERROR, message=message),)
