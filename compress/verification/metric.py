"""What a metric is: a function of per-sample rows [S, K], either a smooth function of the rows' means (`of_means`,
which makes its bootstrap one matrix product) or any function of the rows (`of_rows`) and their weights (`of_weights`).
Rates are in percent, so a drop is in points.

S samples, R rows, K columns, B bootstrap resamples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from targets.errors import InputError

F64 = NDArray[np.float64]
#: Samples that stand for those not seen.
UNSEEN = 128
#: The least KL in nats that overturns an answer of which the reference was certain.
OVERTURNED = float(np.log(2))


def first(means_BK: F64) -> F64:
    """The first column of the means."""
    return means_BK[..., 0]


def percent(means_BK: F64) -> F64:
    """The first column of the means in percent."""
    return 100 * means_BK[..., 0]


def micro_f1(means_BK: F64) -> F64:
    """Micro F1 in percent of (right, found, true); 0 where there is nothing to find and nothing was found."""
    total = means_BK[..., 1] + means_BK[..., 2]
    return np.asarray(100 * 2 * means_BK[..., 0] / np.where(total > 0, total, 1.0))


def none_right(rows_SK: F64) -> F64:
    """Rows of (right, found, true) with none right, and at least one found."""
    return np.stack([0 * rows_SK[:, 0], np.maximum(rows_SK[:, 1], 1), rows_SK[:, 2]], axis=1)


def most_right(rows_SK: F64) -> NDArray[np.bool_]:
    """Where the most are right of rows of (right, found, true)."""
    return np.asarray(rows_SK[:, 0] == rows_SK[:, 0].max())


@dataclass(frozen=True)
class Metric:
    """A number made of a kind of answers.

    `rows` gives the float64 rows [S, K] of one side, or of both sides when `compares` is true: then the metric
    is a single value for the pair (agreement), otherwise each side has a value and there is a drop. `rate` marks
    the mean of 0/1 rows in percent, for which exact intervals exist. `sampled` is false for extremes, which no
    interval describes. `unseen` gives, of each row, the row had its answer failed: what a sample that nobody looked at
    may be like; `dearest`, where failing costs most, [S] (where it is not given: anywhere). `relative`: a bound on its
    drop is in percent of the reference's value unless it says otherwise. `gather` makes one row of those that belong
    together, such as the passages of a query: these rows, called by `noun`, are what intervals draw and gates count.
    """

    name: str
    title: str
    unit: str
    higher_is_better: bool
    rows: Callable[..., F64]
    of_means: Callable[[F64], F64] | None = None
    of_rows: Callable[[F64], float] | None = None
    of_weights: Callable[[F64, F64], F64] | None = None
    unseen: Callable[[F64], F64] | None = None
    dearest: Callable[[F64], NDArray[np.bool_]] | None = None
    compares: bool = False
    rate: bool = False
    sampled: bool = True
    relative: bool = False
    gather: Callable[[F64], F64] | None = None
    noun: str = "samples"

    def gathered(self, rows_SK: F64) -> F64:
        """The rows that are drawn and counted, of those of the samples."""
        return rows_SK if self.gather is None else self.gather(rows_SK)

    def value(self, *sides: Any) -> float:
        """The metric of one side, or of (reference, candidate) when it compares; whatever the samples' order.

        Raises InputError when a side is empty or not finite, or when the sides do not fit each other.
        """
        for side in sides:
            if fault := side.fault():
                raise InputError(f"{self.name} cannot be computed: {fault}")
        if self.compares and (fault := sides[0].mismatch(sides[1])):
            raise InputError(f"{self.name} cannot be computed: {fault}")
        rows_SK = self.gathered(self.rows(*sides))
        if not len(rows_SK):
            raise InputError(f"{self.name} cannot be computed: there are no {self.noun}")
        return self.of_sorted(sort_rows(rows_SK))

    def of_sorted(self, rows_SK: F64) -> float:
        """The metric of rows that `sort_rows` has put into canonical order."""
        if self.of_rows is not None:
            return self.of_rows(rows_SK)
        assert self.of_means is not None
        return float(self.of_means(rows_SK.mean(axis=0, keepdims=True))[0])

    def weighted(self, rows_RK: F64, weights_BR: F64) -> F64:
        """The metric [B] of rows under weights that sum to 1."""
        if self.of_weights is not None:
            return self.of_weights(rows_RK, weights_BR)
        assert self.of_means is not None
        return self.of_means(weights_BR @ rows_RK)

    def failed(self, rows_SK: F64) -> tuple[NDArray[np.intp], F64]:
        """At most `UNSEEN` places of rows, evenly over those that cost most, and the rows had their answers failed."""
        assert self.unseen is not None
        costly = np.arange(len(rows_SK)) if self.dearest is None else np.flatnonzero(self.dearest(rows_SK))
        places = costly[np.unique(np.linspace(0, len(costly) - 1, UNSEEN).astype(np.intp))]
        return places, self.unseen(rows_SK)[places]

    @property
    def bound(self) -> Literal["max_drop", "max_relative_drop"]:
        """What a plain number as a bound means: points of the metric, or percent of the reference's value."""
        return "max_relative_drop" if self.relative else "max_drop"

    def drop(self, reference: float, candidate: float) -> float:
        """How much worse the candidate is (positive: worse), in the metric's unit."""
        return reference - candidate if self.higher_is_better else candidate - reference


def sort_rows(rows_SK: F64) -> F64:
    """Rows in lexicographic order: sums, and so every result, no longer depend on the samples' order."""
    return rows_SK[np.lexsort(rows_SK.T[::-1])]


def neighbours(rows_SK: F64) -> F64:
    """The rows of other samples: each one's is that of a sample half of the data away, in a fixed mixed order."""
    order_S = np.random.default_rng(0).permutation(len(rows_SK))
    other_SK = np.empty_like(rows_SK)
    other_SK[order_S] = rows_SK[np.roll(order_S, max(1, len(order_S) // 2))]
    return other_SK


def kl_failed(rows_SK: F64) -> F64:
    """The largest divergence of any sample, and at least that of an overturned answer."""
    return np.full_like(rows_SK, max(float(rows_SK.max()), OVERTURNED))


def log_softmax(logits_SC: NDArray[np.float32]) -> F64:
    """Log-probabilities [S, C] in float64."""
    shifted: F64 = logits_SC.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted
