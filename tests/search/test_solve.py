"""The integer program is held against trying every combination."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from compress.search.solve import Chosen, Item, cheapest, solve, sums

Pairs = dict[tuple[int, int], float]


def problem(seed: int, layers: int = 3, options: int = 3) -> tuple[list[Item], Pairs]:
    """Layers of two halves: each half stays at a cost or gets one of some options, or the whole layer goes."""
    draw = np.random.default_rng(seed)
    items = []
    for layer in range(layers):
        for half in ("mixer", "ffn"):
            slot = frozenset({f"{layer}.{half}"})
            items.append(Item(slot, 0.0, {"ms": 1.0, "bytes": 10.0}))
            for _ in range(options):
                costs = {"ms": float(draw.uniform(0.1, 0.9)), "bytes": float(draw.uniform(1, 12))}
                items.append(Item(slot, float(draw.uniform(0.01, 1)), costs))
        both = frozenset({f"{layer}.mixer", f"{layer}.ffn"})
        items.append(Item(both, float(draw.uniform(0.5, 2)), {"ms": 0.0, "bytes": 0.0}))
    first, second = draw.choice(len(items), size=(2, 8)).tolist()
    pairs = {(a, b): float(draw.uniform(-0.3, 0.6)) for a, b in zip(first, second, strict=True) if a < b}
    return items, pairs


def covers(items: list[Item]) -> list[Chosen]:
    """Every exact cover, by trying all."""
    slots = set().union(*(item.slots for item in items))
    found: list[Chosen] = []

    def extend(chosen: Chosen, left: frozenset[str]) -> None:
        if not left:
            found.append(tuple(sorted(chosen)))
            return
        first = min(left)
        for index, item in enumerate(items):
            if first in item.slots and item.slots <= left:
                extend((*chosen, index), left - item.slots)

    extend((), frozenset(slots))
    return found


def best(items: list[Item], budgets: dict[str, float], pairs: Pairs, cuts: list[Chosen]) -> float | None:
    drifts = []
    for chosen in covers(items):
        drift, costs = sums(items, chosen, pairs)
        if chosen not in cuts and all(costs[name] <= limit for name, limit in budgets.items()):
            drifts.append(drift)
    return min(drifts, default=None)


@pytest.mark.parametrize("seed", range(8))
def test_it_finds_the_least_drift_that_any_combination_within_the_budgets_has(seed: int) -> None:
    items, pairs = problem(seed)
    for budgets in ({}, {"ms": 3.0}, {"ms": 2.0, "bytes": 25.0}, {"bytes": 8.0}):
        found = solve(items, budgets, pairs)
        wanted = best(items, budgets, pairs, [])
        assert found is not None and wanted is not None
        assert found in covers(items)
        assert sums(items, found, pairs)[0] == pytest.approx(wanted, abs=1e-6)
        assert all(sums(items, found, pairs)[1][name] <= limit + 1e-6 for name, limit in budgets.items())


def test_a_solution_that_was_cut_off_is_not_given_again() -> None:
    items, pairs = problem(3)
    cuts: list[Chosen] = []
    for _ in range(5):
        wanted = best(items, {"ms": 2.5}, pairs, cuts)
        found = solve(items, {"ms": 2.5}, pairs, cuts)
        assert found is not None and found not in cuts
        assert sums(items, found, pairs)[0] == pytest.approx(wanted, abs=1e-6)
        cuts.append(found)


def test_a_budget_that_nothing_keeps_has_no_solution() -> None:
    items, _ = problem(1)
    kept = [item for item in items if len(item.slots) == 1]
    assert solve(kept, {"ms": 0.01}) is None


@pytest.mark.parametrize("name", ["ms", "bytes"])
def test_the_cheapest_combination_is_the_cheapest_of_all(name: str) -> None:
    items = [item for item in problem(5, layers=2)[0] if len(item.slots) == 1]
    wanted = min(sum(items[index].costs[name] for index in chosen) for chosen in covers(items))
    assert sum(items[index].costs[name] for index in cheapest(items, name)) == pytest.approx(wanted)


def test_drifts_that_are_all_tiny_are_told_apart() -> None:
    items = [
        Item(frozenset({half}), drift, {"ms": ms})
        for half, (drift, ms) in itertools.product("ab", [(0.0, 1.0), (3e-9, 0.5), (1e-9, 0.5)])
    ]
    found = solve(items, {"ms": 1.0})
    assert found == (2, 5)
