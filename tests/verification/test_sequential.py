"""The bounds of stopping early, each against a search through all that may still come."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import hypergeom

from compress.verification.early import EarlyStop
from compress.verification.gate import Gate, parse
from compress.verification.kinds.classes import Predictions
from compress.verification.outcome import Status
from compress.verification.sequential import SequentialTest
from compress.verification.statistics import paired_rate_interval


def test_the_allowed_error_is_shared_by_all_looks_and_their_four_bounds() -> None:
    test = SequentialTest(1000, 0.01, error=0.02, looks=20)
    tail = 0.02 / (4 * 20)
    for seen, count in ((50, 0), (500, 10), (500, 499), (950, 3)):
        totals = np.arange(count, 1000 - seen + count + 1)
        at_least, at_most = (hypergeom.sf(count - 1, 1000, totals, seen), hypergeom.cdf(count, 1000, totals, seen))
        possible = totals[(at_least >= tail) & (at_most >= tail)]
        assert test._final_range(seen, count) == (possible.min(), possible.max())


def test_more_looks_and_less_error_leave_more_open() -> None:
    ranges = [
        SequentialTest(1000, 0.01, error=error, looks=looks)._final_range(500, 10)
        for error, looks in ((0.05, 1), (0.05, 20), (0.001, 20), (0.0, 20))
    ]
    assert all(one[0] >= other[0] and one[1] < other[1] for one, other in pairwise(ranges))
    assert ranges[-1] == (10, 510)


@pytest.mark.parametrize(("losses", "wins"), [(0, 0), (3, 0), (0, 3), (12, 1), (20, 5), (9, 9)])
@pytest.mark.parametrize("seen", [120, 200, 290])
def test_a_logically_certain_verdict_is_that_of_every_way_in_which_the_rest_may_turn_out(
    losses: int, wins: int, seen: int
) -> None:
    samples, margin = 300, 0.05
    verdict = SequentialTest(samples, margin, error=0.0).verdict(seen, losses, wins)
    rest = samples - seen
    finals = {(losses + lost, wins + won) for lost in range(rest + 1) for won in range(rest - lost + 1)}
    corners = [pair for pair in finals if pair[0] in (losses, losses + rest) or pair[1] in (wins, wins + rest)]
    chosen = sorted(corners, key=lambda pair: hash(pair))[:150]
    passes = {paired_rate_interval(lost, won, samples).high <= margin + 1e-12 for lost, won in chosen}
    assert verdict in (None, *passes) if len(passes) == 1 else verdict is None


def answers(right: np.ndarray) -> Predictions:
    labels = np.arange(len(right)) % 2
    return Predictions(np.eye(2)[np.where(right, labels, 1 - labels)], labels)


def gate_of(**more: object) -> Gate:
    return parse({"check": [{"metric": "top1", "max_drop": 5.0}], **more})


@pytest.mark.parametrize("least", [50, 80])
def test_exactly_the_least_number_of_samples_is_judged_and_one_fewer_is_not(least: int) -> None:
    gate = parse({"min_samples": least, "check": [{"metric": "top1", "max_drop": 50.0}]})
    for samples, status in ((least, Status.PASS), (least - 1, Status.ERROR)):
        side = answers(np.arange(samples) % 5 > 0)
        assert gate.judge(side, side).status is status


@pytest.mark.parametrize(("seen", "decided"), [(50, True), (49, False)])
def test_stopping_early_waits_for_the_least_number_of_samples_too(seen: int, decided: bool) -> None:
    stop = EarlyStop(gate_of(stop_early=0.01, min_samples=50), 400)
    reference, candidate = answers(np.ones(seen, bool)), answers(np.arange(seen) % 2 > 0)
    assert (stop.decide(reference, candidate) is not None) == decided


def test_the_error_is_shared_by_the_checks_that_can_be_certain() -> None:
    bounds = [{"metric": "top1", "max_drop": drop} for drop in (1.0, 2.0)]
    stop = EarlyStop(parse({"check": bounds, "stop_early": 0.01}), 400)
    assert {test.error for test in stop._tests.values()} == {0.005}
    assert [test.margin for test in stop._tests.values()] == [0.01, 0.02]
