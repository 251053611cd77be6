"""One metric on one set of samples: the value of each side, the drop, and an interval, by the best method there is.

S samples, K columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from compress.verification.metric import F64, Metric, sort_rows
from compress.verification.statistics import (
    Interval,
    mean_bootstrap_interval,
    paired_rate_interval,
    rate_interval,
    row_bootstrap_interval,
)


@dataclass(frozen=True)
class Estimate:
    """`value` is the drop when there are two sides, else the metric itself, in the metric's unit.

    `losses` and `wins` count the samples on which only the reference, only the candidate is right (paired rates).
    """

    samples: int
    value: float
    interval: Interval | None
    reference: float | None = None
    candidate: float | None = None
    losses: int | None = None
    wins: int | None = None

    def finite(self) -> bool:
        """Is every number a number?"""
        numbers = [self.value, self.reference, self.candidate, *(self.interval or ())]
        return all(number is None or math.isfinite(number) for number in numbers)


@dataclass(frozen=True)
class Sampling:
    """How intervals are drawn: two-sided `confidence`, number of `resamples` where the bootstrap needs any, `seed`."""

    confidence: float = 0.95
    resamples: int = 2000
    seed: int = 0


def estimate_drop(metric: Metric, reference_SK: F64, candidate_SK: F64, sampling: Sampling) -> Estimate:
    """The drop from reference to candidate, from the metric's rows of each side on the same samples."""
    columns = reference_SK.shape[1]
    rows = sort_rows(np.concatenate([reference_SK, candidate_SK], axis=1))
    reference = metric.of_sorted(sort_rows(reference_SK))
    candidate = metric.of_sorted(sort_rows(candidate_SK))
    drop = metric.drop(reference, candidate)
    if metric.rate:
        losses, wins = int((rows[:, 0] > rows[:, 1]).sum()), int((rows[:, 0] < rows[:, 1]).sum())
        low, high = paired_rate_interval(losses, wins, len(rows), sampling.confidence)
        percent = Interval(100 * low, 100 * high)
        return Estimate(len(rows), 100 * (losses - wins) / len(rows), percent, reference, candidate, losses, wins)

    if not math.isfinite(drop):
        return Estimate(len(rows), drop, None, reference, candidate)
    sign = 1.0 if metric.higher_is_better else -1.0
    of_means, of_rows = metric.of_means, metric.of_rows
    if of_means is not None:
        interval = mean_bootstrap_interval(
            rows,
            lambda means: sign * (of_means(means[:, :columns]) - of_means(means[:, columns:])),
            sampling.confidence,
            sampling.resamples,
            sampling.seed,
        )
    else:
        assert of_rows is not None
        interval = row_bootstrap_interval(
            rows,
            lambda drawn: sign * (of_rows(drawn[:, :columns]) - of_rows(drawn[:, columns:])),
            sampling.confidence,
            sampling.resamples,
            sampling.seed,
        )
    return Estimate(len(rows), drop, _holding(interval, drop), reference, candidate)


def estimate_value(metric: Metric, rows_SK: F64, sampling: Sampling) -> Estimate:
    """The metric itself, from its rows: of one side, or of both when the metric compares."""
    rows = sort_rows(rows_SK)
    value = metric.of_sorted(rows)
    if not metric.sampled or not math.isfinite(value):
        return Estimate(len(rows), value, None)
    if metric.rate:
        low, high = rate_interval(int(rows[:, 0].sum()), len(rows), sampling.confidence)
        return Estimate(len(rows), value, Interval(100 * low, 100 * high))
    if metric.of_means is not None:
        interval = mean_bootstrap_interval(
            rows, metric.of_means, sampling.confidence, sampling.resamples, sampling.seed
        )
    else:
        assert metric.of_rows is not None
        interval = row_bootstrap_interval(rows, metric.of_rows, sampling.confidence, sampling.resamples, sampling.seed)
    return Estimate(len(rows), value, _holding(interval, value))


def _holding(interval: Interval, point: float) -> Interval:
    """The interval, made to hold the point despite rounding in the last digit."""
    return Interval(min(interval.low, point), max(interval.high, point))
