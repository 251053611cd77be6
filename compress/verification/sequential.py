"""Stopping a paired-rate gate early, when the samples not yet seen can no longer change its verdict.

The samples come in random order, so the counts seen so far are a draw without replacement from the final counts.
Hypergeometric bounds on the final counts, with the allowed error shared between all looks and bounds (Bonferroni), make
the early verdict differ from the full one with probability at most `error`. With `error=0` the bounds are the logical
ones (every unseen sample goes the worst or the best way) and the verdict never differs, in whatever order samples come.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

import numpy as np

from compress.verification.statistics import count_bootstrap_interval, critical_value, tango_statistic

_BOUNDS_PER_LOOK = 4


@dataclass(frozen=True)
class SequentialTest:
    """A gate on `samples` samples that may be looked at up to `looks` times before they are all seen.

    `margin` is the largest drop that passes, a fraction. Raises ValueError for an error outside [0, 1).
    """

    samples: int
    margin: float
    confidence: float = 0.95
    error: float = 0.001
    looks: int = 20

    def __post_init__(self) -> None:
        if self.samples < 1 or self.looks < 1 or not 0 <= self.error < 1:
            raise ValueError(f"samples {self.samples}, looks {self.looks}, error {self.error}")

    def look_points(self) -> list[int]:
        """After how many samples to look: evenly spread, the last one after all of them."""
        return sorted({-(-self.samples * look // self.looks) for look in range(1, self.looks + 1)})

    def verdict(self, seen: int, losses: int, wins: int) -> bool | None:
        """True: the full test passes; False: it fails; None: go on. Look only at the `look_points`."""
        loss_low, loss_high = self._final_range(seen, losses)
        win_low, win_high = self._final_range(seen, wins)
        if self._all_pass(loss_high, win_low, win_high):
            return True
        if self._all_fail(loss_low, win_low, win_high):
            return False
        return None

    def _final_range(self, seen: int, count: int) -> tuple[int, int]:
        """Bounds on the count among all samples, when `count` of the first `seen` have it."""
        low, high = count, self.samples - seen + count
        if self.error == 0 or low == high:
            return low, high
        from scipy.stats import hypergeom

        tail = self.error / (_BOUNDS_PER_LOOK * self.looks)
        totals = range(low, high + 1)
        # P(at most count) falls with the total, P(at least count) rises: both ends are found by bisection.
        first = bisect_left(totals, tail, key=lambda total: hypergeom.sf(count - 1, self.samples, total, seen))
        past = bisect_right(totals, -tail, key=lambda total: -hypergeom.cdf(count, self.samples, total, seen))
        return totals[first], totals[past - 1]

    def _all_pass(self, losses: int, win_low: int, win_high: int) -> bool:
        """Do all final counts with at most `losses` losses pass? Both parts of the test worsen with the losses."""
        wins = np.arange(win_low, min(win_high, self.samples - losses) + 1)
        if len(wins) == 0:
            return False
        statistic = tango_statistic(losses, wins, self.samples, self.margin)
        if (statistic > -critical_value(self.confidence)).any():
            return False
        return self._bootstrap_end(losses, win_low) <= self.margin

    def _all_fail(self, losses: int, win_low: int, win_high: int) -> bool:
        """Do all final counts with at least `losses` losses fail?"""
        wins = np.arange(win_low, min(win_high, self.samples - losses) + 1)
        statistic = tango_statistic(losses, wins, self.samples, self.margin)
        if (statistic > -critical_value(self.confidence)).all():
            return True
        return self._bootstrap_end(losses, min(win_high, self.samples - losses)) > self.margin

    def _bootstrap_end(self, losses: int, wins: int) -> float:
        return count_bootstrap_interval(losses, wins, self.samples, self.confidence).high - 1e-12
