"""Candidates: combinations of choices that are best for some budget, and the front that they make together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from compress.search.choices import Choice
from compress.search.clock import AS_IT_IS, Correction, fastest
from compress.search.library import Frame, Library
from compress.search.shapes import without_layers
from compress.search.solve import Chosen, cheapest, solve, sums

#: Budgets of time from the cheapest model to the original, for the front.
SWEEP = 8


@dataclass(frozen=True)
class Candidate:
    """A combination of choices with what it is predicted to be: `drift` (a sum of what choices do alone and in pairs),
    `ms` and `bytes`. No choices are the original, in the precision that ships."""

    choices: tuple[Choice, ...]
    drift: float
    ms: float
    bytes: float

    @property
    def label(self) -> str:
        """For people; what is alike at several layers is said once."""
        grouped: dict[str, list[int]] = {}
        for one in self.choices:
            grouped.setdefault(one.replace(layer=None).label, []).extend([] if one.layer is None else [one.layer])
        parts = [f"{what}{f' at {_ranges(layers)}' if layers else ''}" for what, layers in sorted(grouped.items())]
        return ", ".join(parts) or "architecture kept"


def _ranges(layers: list[int]) -> str:
    """0-3 5: runs of layers."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return " ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


@dataclass(frozen=True)
class Budget:
    """None where there is no limit."""

    ms: float | None = None
    bytes: float | None = None

    def keeps(self, one: Candidate) -> bool:
        """Whether a candidate is predicted to be within it."""
        return (self.ms is None or one.ms <= self.ms) and (self.bytes is None or one.bytes <= self.bytes)


class Predictor:
    """What combinations of a library are predicted to be. `costs`: of each probe, by its id; `time`, `size`: what puts
    the sums of ms and of bytes right."""

    def __init__(
        self,
        library: Library,
        costs: Mapping[str, Mapping[str, float]],
        time: Correction = AS_IT_IS,
        size: Correction = AS_IT_IS,
    ) -> None:
        self.library, self.costs, self.time, self.size = library, costs, time, size
        self.pairs = library.pair_drifts()
        self.items = [library.items(frame, costs) for frame in library.frames]
        self.bases = [dict(costs[without_layers(frame.structure).id]) for frame in library.frames]

    @cached_property
    def threads(self) -> list[str]:
        """Names of the budgets of time, one for each number of threads."""
        return [name for name in self.bases[0] if name.startswith("ms ")]

    def summed(self, frame: int, solution: Chosen) -> tuple[float, float]:
        """Milliseconds and bytes as sums, before they are put right."""
        _, costs = sums(self.items[frame], solution, self.pairs)
        total = {name: self.bases[frame][name] + more for name, more in costs.items()}
        return fastest(total), total["bytes"]

    def candidate(self, frame: int, solution: Chosen) -> Candidate:
        drift, _ = sums(self.items[frame], solution, self.pairs)
        ms, size = self.summed(frame, solution)
        chosen = self.library.chosen(self.frame(frame), solution)
        return Candidate(chosen, drift + self.frame(frame).drift, self.time(ms), self.size(size))

    def frame(self, number: int) -> Frame:
        return self.library.frames[number]

    def best(self, budget: Budget, most: int = 1) -> list[Candidate]:
        """Up to `most` different combinations within a budget for each frame and number of threads, least drift
        first."""
        found: dict[tuple[Choice, ...], Candidate] = {}
        for frame in range(len(self.items)):
            for threads in self.threads if budget.ms is not None else self.threads[:1]:
                limits = self._limits(frame, threads, budget)
                cuts: list[Chosen] = []
                while limits is not None and len(cuts) < most:
                    solution = solve(self.items[frame], limits, self.pairs, cuts)
                    if solution is None:
                        break
                    cuts.append(solution)
                    one = self.candidate(frame, solution)
                    found[one.choices] = one
        return sorted(found.values(), key=lambda one: (one.drift, one.ms))[:most]

    def _limits(self, frame: int, threads: str, budget: Budget) -> dict[str, float] | None:
        """What is left of the budget for the layers; None if the rest alone is beyond it."""
        limits = {}
        if budget.ms is not None:
            limits[threads] = self.time.before(budget.ms) - self.bases[frame][threads]
        if budget.bytes is not None:
            limits["bytes"] = self.size.before(budget.bytes) - self.bases[frame]["bytes"]
        return None if any(limit < 0 for limit in limits.values()) else limits

    def cheapest(self) -> tuple[Candidate, Candidate]:
        """The combinations that are predicted to be the fastest and the smallest."""
        times = [
            self.candidate(frame, one) for frame in range(len(self.items)) for one in self._least(frame, self.threads)
        ]
        sizes = [
            self.candidate(frame, one) for frame in range(len(self.items)) for one in self._least(frame, ["bytes"])
        ]
        return min(times, key=lambda one: one.ms), min(sizes, key=lambda one: one.bytes)

    def _least(self, frame: int, names: Sequence[str]) -> list[Chosen]:
        return [cheapest(self.items[frame], name) for name in names]

    def sweep(self, budget: Budget) -> list[Candidate]:
        """The front of predicted time and drift: the best for each of some times, and the original; other limits than
        that of time hold for all but the original."""
        whole = self.candidate(0, self.library.originals)
        low = self.cheapest()[0].ms
        times = np.geomspace(low * 1.001, max(whole.ms, low * 1.001), SWEEP)
        found = [one for ms in times for one in self.best(replace(budget, ms=float(ms)))]
        return undominated([*found, whole])


def undominated(candidates: list[Candidate]) -> list[Candidate]:
    """Those than which no other is at least as good in drift and time and better in one, fastest first."""
    different = list({one.choices: one for one in candidates}.values())
    kept = [
        one
        for one in different
        if not any(
            other.drift <= one.drift and other.ms <= one.ms and (other.drift, other.ms) != (one.drift, one.ms)
            for other in different
        )
    ]
    return sorted(kept, key=lambda one: (one.ms, one.drift))
