"""Copies of a sample count once."""

from __future__ import annotations

import numpy as np
import pytest

from compress.verification.distinct import places_of_different
from compress.verification.drift import Drift, compare
from compress.verification.gate import default_gate
from compress.verification.kinds.classes import Predictions
from compress.verification.outcome import Status


def sides(labels: np.ndarray, reference: np.ndarray, candidate: np.ndarray) -> tuple[Predictions, Predictions]:
    one_hot = np.eye(3, dtype=np.float32)
    return Predictions(one_hot[reference], labels), Predictions(one_hot[candidate], labels)


def test_the_first_of_equal_samples_stands_for_all() -> None:
    labels = np.array([0, 1, 0, 1, 0])
    samples, _ = sides(labels, labels, labels)
    assert places_of_different([(7,), (7,), (7,), (8,), (9,)], samples).tolist() == [0, 1, 3, 4]
    assert places_of_different([(n, 1) for n in range(5)], samples).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("repeats", [1, 2, 40])
def test_a_candidate_at_the_bound_seldom_passes_however_often_its_samples_are_repeated(repeats: int) -> None:
    """True drop 1.1 points on a bound of 1: with copies counted, 40 of each image passed in 46 % of cases."""
    generator, passes = np.random.default_rng(0), 0
    gate = default_gate("top1", 1.0)
    different, cases = 2400 // repeats, 150
    for _ in range(cases):
        labels = generator.integers(0, 3, different)
        lost = generator.random(different) < 0.011
        repeated = np.repeat(np.arange(different), repeats)
        reference, candidate = sides(labels[repeated], labels[repeated], (labels + lost)[repeated] % 3)
        places = places_of_different([(int(one),) for one in repeated], reference)
        assert len(places) == different
        passes += bool(gate.judge(reference.take(places), candidate.take(places)))
    assert passes <= 8


def test_what_a_comparison_left_out_is_in_its_result_and_older_results_are_still_read() -> None:
    labels = np.arange(60) % 3
    drift = compare(*sides(labels, labels, labels), default_gate("top1", 1.0), copies=2340)
    assert (drift.samples, drift.copies, drift.status) == (60, 2340, Status.FAIL)
    older = drift.model_dump(mode="json")
    del older["copies"]
    assert Drift.model_validate(older).copies == 0
