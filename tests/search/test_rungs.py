"""Successive halving: what fits into the time, and who goes on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from compress.search.front import Candidate, undominated
from compress.search.gating import SPENT, confidences, expected_loss, order, worth_of
from compress.search.limits import Limits
from compress.search.rungs import OVERHEAD, Scored, promoted, rungs

#: The least drift of what is fast enough.
LIMITED = worth_of(Limits(latency_ms=5.0, file_bytes=100), 9.0, 1.0, 1000)


def scored(name: int, drift: float, ms: float = 1.0, agreement: float = 1.0, noise: float = 0.0) -> Scored:
    from compress.search.choices import Choice

    drifts = drift + noise * np.random.default_rng(name).standard_normal(200)
    one = Candidate((Choice(use="drop-mlp", options={}, layer=name),), drift, ms, 1.0)
    return Scored(one, 10, agreement, drift, tuple(drifts.tolist()), 1)


@pytest.mark.parametrize("hours", [0.01, 0.05, 0.2, 1, 8])
@pytest.mark.parametrize("step", [0.01, 0.2, 2.0])
def test_the_rungs_take_about_the_time_that_is_given(hours: float, step: float) -> None:
    seconds = hours * 3600
    plan = rungs(seconds, step)
    took = sum(rung.count * (OVERHEAD + rung.steps * step) for rung in plan)
    least = sum(rung.count * (OVERHEAD + least * step) for rung, least in zip(plan, (20, 60, 120), strict=False))
    assert took <= max(seconds * 1.05, least)
    assert [rung.count for rung in plan] == sorted((rung.count for rung in plan), reverse=True)
    assert [rung.steps for rung in plan] == sorted(rung.steps for rung in plan)
    assert rungs(seconds, step) == plan


def test_an_hour_starts_with_many_candidates_and_ends_with_few() -> None:
    counts = [rung.count for rung in rungs(3600, 0.2)]
    assert len(counts) == 3 and counts[0] >= 12 and counts[-1] == 2


def test_the_best_go_on_with_one_that_is_drawn() -> None:
    every = [scored(number, drift=0.1 * number) for number in range(8)]
    kept = promoted(every, 3, 1, seed=0, worth=LIMITED)
    assert kept[:2] == every[:2]
    assert kept[2] in every[2:]
    assert kept == promoted(every, 3, 1, seed=0, worth=LIMITED)
    worth = LIMITED
    drawn = {promoted(every, 3, 1, seed=seed, worth=worth)[2].candidate.choices for seed in range(9)}
    assert len(drawn) > 2


def test_one_whose_interval_reaches_the_best_is_preferred_to_one_that_is_surely_worse() -> None:
    best, sure, unsure = scored(0, 0.100), scored(1, 0.110), scored(2, 0.115, noise=0.2)
    assert promoted([best, sure, unsure], 2, 0, 0, LIMITED) == [unsure, best]


def test_what_turned_out_too_large_comes_after_what_drifts_more() -> None:
    large, small = replace(scored(0, 0.1), bytes=200), scored(1, 0.3)
    assert [steps for _, steps in order([replace(large, steps=7), small], LIMITED)] == [10, 7]


def test_without_limits_the_fastest_that_is_expected_to_pass_comes_first() -> None:
    worth = worth_of(Limits(), 9.0, 2.0, 10_000)
    slow, fast, lossy = scored(0, 0.1, ms=3.0), scored(1, 0.2, ms=2.0), scored(2, 0.9, ms=1.0, agreement=0.9)
    assert [candidate.ms for candidate, _ in order([slow, lossy, fast], worth)] == [2.0, 3.0, 1.0]


def test_the_expected_loss_counts_every_other_answer_and_the_width_of_the_gate() -> None:
    assert expected_loss(scored(0, 0.1, agreement=0.99), 10**9) == pytest.approx(1.0, abs=0.01)
    assert expected_loss(scored(0, 0.1, agreement=0.99), 100) == pytest.approx(1 + 1.645, abs=0.01)
    assert expected_loss(scored(0, 0.1, agreement=1.0), 10**9) > 0


def test_the_gates_together_err_no_more_often_than_one_would() -> None:
    assert sum(1 - one for one in confidences(0.95)) == pytest.approx(0.05)
    assert len(confidences(0.95)) == len(SPENT) and min(confidences(0.95)) > 0.95


def test_the_front_has_what_nothing_beats() -> None:
    points = [(1, 1), (0, 2), (1, 3), (0, 4)]
    made = [scored(number, drift, ms=ms).candidate for number, (drift, ms) in enumerate(points)]
    assert [(one.drift, one.ms) for one in undominated(made)] == [(1, 1), (0, 2)]
