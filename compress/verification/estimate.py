"""One metric on one set of samples: the value of each side, the drop, and an interval, by the best method there is.

S samples, K columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from compress.verification.metric import F64, Metric, sort_rows
from compress.verification.statistics import (
    Interval,
    paired_rate_interval,
    rate_interval,
    smoothed_interval,
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
    """The drop from reference to candidate, from the metric's rows of each side on the same samples; NaN of none."""
    reference_SK, candidate_SK = metric.gathered(reference_SK), metric.gathered(candidate_SK)
    if not len(reference_SK):
        return Estimate(0, math.nan, None)
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

    def of_weighted(rows_RK: F64, weights_BR: F64) -> F64:
        was, now = metric.weighted(rows_RK[:, :columns], weights_BR), metric.weighted(rows_RK[:, columns:], weights_BR)
        return sign * (was - now)

    was_SK, now_SK = rows[:, :columns], rows[:, columns:]
    places, failed = metric.failed(was_SK)
    better = np.concatenate([failed, now_SK[places]], axis=1)
    places, failed = metric.failed(now_SK)
    worse = np.concatenate([was_SK[places], failed], axis=1)
    interval = _interval(rows, better, worse, of_weighted, sampling)
    return Estimate(len(rows), drop, _holding(interval, drop), reference, candidate)


def estimate_value(metric: Metric, rows_SK: F64, sampling: Sampling) -> Estimate:
    """The metric itself, from its rows: of one side, or of both when the metric compares; NaN of none."""
    rows = sort_rows(metric.gathered(rows_SK))
    if not len(rows):
        return Estimate(0, math.nan, None)
    value = metric.of_sorted(rows)
    if not metric.sampled or not math.isfinite(value):
        return Estimate(len(rows), value, None)
    if metric.rate:
        low, high = rate_interval(int(rows[:, 0].sum()), len(rows), sampling.confidence)
        return Estimate(len(rows), value, Interval(100 * low, 100 * high))
    places, worse = metric.failed(rows)
    ends = (worse, rows[places]) if metric.higher_is_better else (rows[places], worse)
    interval = _interval(rows, *ends, metric.weighted, sampling)
    return Estimate(len(rows), value, _holding(interval, value))


def _interval(
    rows_SK: F64, low_EK: F64, high_EK: F64, of_weighted: Callable[[F64, F64], F64], sampling: Sampling
) -> Interval:
    drawn = sampling.confidence, sampling.resamples, sampling.seed
    return smoothed_interval(rows_SK, low_EK, high_EK, of_weighted, *drawn)


def _holding(interval: Interval, point: float) -> Interval:
    """The interval, made to hold the point despite rounding in the last digit."""
    return Interval(min(interval.low, point), max(interval.high, point))
