"""From times of probes to the predicted time of a whole model, corrected on whole models that were timed as well.

The prediction is a sum over layers for each number of threads; the number that is fastest for the sum counts. What a
sum does not know (fusion over the border of halves, caches that fill) is put right by a line through whole models,
which gives a residual to report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from runtime.costs import Costs


@dataclass(frozen=True)
class Correction:
    """measured ~ `slope` * sum + `offset`, from `models` whole models. `errors`: of each of them, the relative error of
    what the line through the others says."""

    slope: float = 1.0
    offset: float = 0.0
    errors: tuple[float, ...] = ()

    def __call__(self, ms: float) -> float:
        return self.slope * ms + self.offset

    def before(self, ms: float) -> float:
        """The sum that is corrected to so much."""
        return (ms - self.offset) / self.slope

    @property
    def typical(self) -> float | None:
        """The median relative error; None where there were too few models to tell."""
        return float(np.median(self.errors)) if self.errors else None


#: Nothing to put right.
AS_IT_IS = Correction()


def corrected(sums: Sequence[float], measured: Sequence[float]) -> Correction:
    """The line of least relative squares. With fewer than three models it is a factor, with none nothing."""
    if not sums:
        return AS_IT_IS
    slope, offset = _line(np.array(sums), np.array(measured))
    errors = []
    for left_out in range(len(sums) if len(sums) > 2 else 0):
        rest = [place for place in range(len(sums)) if place != left_out]
        a, b = _line(np.array(sums)[rest], np.array(measured)[rest])
        errors.append(abs(a * sums[left_out] + b - measured[left_out]) / measured[left_out])
    return Correction(slope, offset, tuple(errors))


def _line(x_M: np.ndarray, y_M: np.ndarray) -> tuple[float, float]:
    factor = float(np.median(y_M / x_M))
    if len(x_M) < 3 or float(x_M.max()) < 1.1 * float(x_M.min()):
        return factor, 0.0
    columns_M2 = np.stack([x_M, np.ones_like(x_M)], axis=1) / y_M[:, None]
    (slope, offset), *_ = np.linalg.lstsq(columns_M2, np.ones_like(y_M), rcond=None)
    # A line that falls, or that starts far from nothing, is noise of the clock.
    return (float(slope), float(offset)) if slope > 0.2 * factor else (factor, 0.0)


def by_threads(costs: Costs, size: Mapping[str, int]) -> dict[str, dict[str, float]]:
    """Each probe's costs by the name of the budget: ms with a number of threads ("ms 2"), and bytes."""
    return {
        name: {**{f"ms {count}": ms for count, ms in row.ms.items()}, "bytes": float(size[name])}
        for name, row in costs.rows.items()
        if name in size
    }


def fastest(costs: Mapping[str, float]) -> float:
    """The least of the times by number of threads."""
    return min(ms for name, ms in costs.items() if name.startswith("ms "))
