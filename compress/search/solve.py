"""Which replacement each half of each layer gets: an exact cover of the model's parts within all budgets at once.

An item covers parts of the model (both halves of a layer that goes, or one of them); every part is covered by exactly
one item, its own original among them. What a set of items costs is a sum, and so is its drift, except for pairs of
items whose drift together is known to be another one. Source: the replacement library and the integer program of Puzzle
(Bercovich et al. 2024, arXiv 2411.19146).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

Chosen = tuple[int, ...]


@dataclass(frozen=True)
class Item:
    """`slots`: the parts that it covers. `drift` and each of `costs` (by the name of the budget) are added up."""

    slots: frozenset[str]
    drift: float
    costs: Mapping[str, float]


def solve(
    items: Sequence[Item],
    budgets: Mapping[str, float],
    pairs: Mapping[tuple[int, int], float] | None = None,
    cuts: Sequence[Chosen] = (),
) -> Chosen | None:
    """The items (ascending) of least drift that cover every slot once and keep within the budgets; None if none do.

    `pairs`: drift that two items have together beyond the sum of theirs. `cuts`: solutions that are not wanted again.
    """
    extra = list((pairs or {}).items())
    slots = sorted(set().union(*(item.slots for item in items)))
    count, total = len(items), len(items) + len(extra)
    row_of = {slot: row for row, slot in enumerate(slots)}
    cover = np.zeros((len(slots), total))
    for index, item in enumerate(items):
        cover[[row_of[slot] for slot in item.slots], index] = 1
    constraints = [LinearConstraint(cover, 1, 1)]
    for name, limit in budgets.items():
        row = np.array([item.costs[name] for item in items] + [0.0] * len(extra))
        scale = max(abs(limit), 1e-12)
        constraints.append(LinearConstraint(row[None] / scale, -np.inf, limit / scale))
    for place, ((first, second), drift) in enumerate(extra, start=count):
        row = np.zeros(total)
        row[[first, second, place]] = 1, 1, -1
        # Both chosen forces a pair that costs; a pair that helps counts only where both are chosen.
        if drift >= 0:
            constraints.append(LinearConstraint(row[None], -np.inf, 1))
        else:
            both = np.zeros((2, total))
            both[0, [first, place]], both[1, [second, place]] = (-1, 1), (-1, 1)
            constraints.append(LinearConstraint(both, -np.inf, 0))
    for cut in cuts:
        row = np.zeros(total)
        row[list(cut)] = 1
        constraints.append(LinearConstraint(row[None], -np.inf, len(cut) - 1))
    drifts = np.array([item.drift for item in items] + [drift for _, drift in extra])
    scale = float(np.abs(drifts).max()) or 1.0
    found = milp(drifts / scale, constraints=constraints, integrality=np.ones(total), bounds=Bounds(0, 1))
    if found.x is None:
        return None
    return tuple(int(index) for index in np.flatnonzero(found.x[:count] > 0.5))


def cheapest(items: Sequence[Item], name: str) -> Chosen:
    """What covers everything and costs least of one budget, whatever the drift."""
    least = [Item(item.slots, item.costs[name], {}) for item in items]
    low = min(min(item.drift for item in least), 0.0)
    found = solve([Item(item.slots, item.drift - low * len(item.slots), {}) for item in least], {})
    assert found is not None, "the originals cover everything"
    return found


def sums(
    items: Sequence[Item], chosen: Chosen, pairs: Mapping[tuple[int, int], float]
) -> tuple[float, dict[str, float]]:
    """Drift and costs of a solution."""
    drift = sum(items[index].drift for index in chosen)
    drift += sum(more for (first, second), more in pairs.items() if first in chosen and second in chosen)
    names = items[chosen[0]].costs
    return drift, {name: sum(items[index].costs[name] for index in chosen) for name in names}
