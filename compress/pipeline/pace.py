"""How the running stage gets on, in words."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from compress.pipeline.events import StageProgress

Clock = Callable[[], float]


class Pace:
    """Remaining time of a stage, from its own mean speed since its first report.

    The first report may be far from zero: a resumed stage starts at its checkpoint.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[float, float] | None = None  # when, how much was done
        self.last: StageProgress | None = None

    def update(self, progress: StageProgress) -> None:
        """Take in a report."""
        if self._first is None:
            self._first = (self._clock(), progress.done)
        self.last = progress

    def remaining(self) -> float | None:
        """Seconds left; None while unknown."""
        if self._first is None or self.last is None or self.last.total <= 0:
            return None
        began, done_then = self._first
        gained = self.last.done - done_then
        if gained <= 0:
            return None
        return max(0.0, (self.last.total - self.last.done) * (self._clock() - began) / gained)

    def describe(self) -> str:
        """Such as "45 %  ETA 0:12  step 360 of 800  loss 0.1234"; empty before the first report."""
        if self.last is None:
            return ""
        parts = []
        if self.last.total > 0:
            parts.append(f"{100 * self.last.done / self.last.total:.0f} %")
        remaining = self.remaining()
        if remaining is not None:
            parts.append(f"ETA {clock_time(remaining)}")
        if self.last.note:
            parts.append(self.last.note)
        parts += [f"{name} {number:.4g}" for name, number in self.last.numbers.items()]
        return "  ".join(parts)


def clock_time(seconds: float) -> str:
    """Such as "0:07", "12:30" or "3:05:00"."""
    whole = math.ceil(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def duration(seconds: float) -> str:
    """Such as "0.3 s", "41.0 s" or "12:30"."""
    return f"{seconds:.1f} s" if round(seconds, 1) < 60 else clock_time(seconds)
