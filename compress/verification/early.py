"""Stopping while predicting: the gate's verdict as soon as the samples not yet seen can hardly change it."""

from __future__ import annotations

from dataclasses import dataclass

from compress.verification.gate import LONGEST, Check, Gate
from compress.verification.metrics import METRICS
from compress.verification.outcome import CheckResult, GateResult, Status, combined_status
from compress.verification.samples import Samples
from compress.verification.sequential import SequentialTest
from targets.errors import one_line


@dataclass(frozen=True)
class Decision:
    """What is certain after `seen` of `total` samples: the verdict of some of the gate's checks, by their place."""

    seen: int
    total: int
    error: float
    passes: dict[int, bool]

    def settle(self, result: GateResult) -> GateResult:
        """The result on the samples seen, with what is certain of all of them. An error stays an error."""
        checks = [self._settle(place, check) for place, check in enumerate(result.checks)]
        status = combined_status([check.status for check in checks])
        return result.model_copy(update={"checks": tuple(checks), "status": status})

    def _settle(self, place: int, check: CheckResult) -> CheckResult:
        if place not in self.passes or check.status is Status.ERROR:
            return check
        certain = "logically" if self.error == 0 else f"up to an error of {100 * self.error:g} %"
        word = "passes" if self.passes[place] else "fails"
        seen = f"{self.seen:,} of {self.total:,} samples"
        text = f"stopped after {seen}, as it is certain ({certain}) that it {word} on all"
        status = Status.PASS if self.passes[place] else Status.FAIL
        return check.model_copy(update={"status": status, "message": one_line(f"{check.message}; {text}", LONGEST)})


class EarlyStop:
    """Looks at the samples seen so far, which come in random order, on behalf of a gate that allows it.

    The verdict of a check on the drop of a paired rate over all samples can become certain. Predicting may stop when
    one of them is certain to fail, or when the gate has no other checks and all are certain to pass.
    """

    def __init__(self, gate: Gate, samples: int) -> None:
        if gate.stop_early is None:
            raise ValueError("the gate does not allow to stop early")
        self.samples, self.error = samples, gate.stop_early
        share = self.error / max(1, sum(map(_can_be_certain, gate.check)))
        self._tests = {
            place: SequentialTest(samples, check.limit / 100, gate.confidence, share)
            for place, check in enumerate(gate.check)
            if _can_be_certain(check) and samples >= (check.min_samples or gate.min_samples)
        }
        self._least = max([gate.min_samples, *(check.min_samples or 0 for check in gate.check)])
        self._all_can = len(self._tests) == len(gate.check)

    def look_points(self) -> list[int]:
        """After how many samples to look; the last one is after all of them."""
        return SequentialTest(self.samples, 0.0).look_points()

    def decide(self, reference: Samples, candidate: Samples) -> Decision | None:
        """What is certain from the samples seen so far (their number is a look point); None: go on."""
        seen = len(reference)
        was, now = reference.right(), candidate.right()
        if was is None or now is None or seen < self._least:
            return None
        if reference.fault() or candidate.fault() or reference.mismatch(candidate) or reference.knows_nothing(0.99):
            return None
        losses, wins = int((was & ~now).sum()), int((now & ~was).sum())
        verdicts = {place: test.verdict(seen, losses, wins) for place, test in self._tests.items()}
        passes = {place: verdict for place, verdict in verdicts.items() if verdict is not None}
        fails = not all(passes.values())
        if fails or (self._all_can and len(passes) == len(self._tests)):
            return Decision(seen, self.samples, self.error, passes)
        return None


def _can_be_certain(check: Check) -> bool:
    metric = METRICS[check.metric]
    return check.per == "overall" and check.bound == "max_drop" and metric.name == "top1" and check.limit < 100
