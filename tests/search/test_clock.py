"""Predicted times: a line through whole models, and an honest error of it."""

from __future__ import annotations

import numpy as np
import pytest

from compress.search.clock import AS_IT_IS, corrected, fastest


def test_a_line_that_is_there_is_found_and_known_to_be_exact() -> None:
    sums = [1.0, 2.0, 3.5, 5.0]
    found = corrected(sums, [0.3 + 1.2 * one for one in sums])
    assert (found.slope, found.offset) == (pytest.approx(1.2), pytest.approx(0.3))
    assert found.typical == pytest.approx(0.0, abs=1e-9)
    assert found(2.0) == pytest.approx(2.7)
    assert found.before(2.7) == pytest.approx(2.0)


def test_its_error_is_that_on_models_that_it_did_not_know() -> None:
    draw = np.random.default_rng(0)
    sums = draw.uniform(1, 5, 40)
    measured = sums * draw.normal(1, 0.1, 40)
    found = corrected(sums.tolist(), measured.tolist())
    assert found.typical is not None and 0.04 < found.typical < 0.11
    assert len(found.errors) == 40


def test_two_models_give_a_factor_and_no_error_and_none_change_nothing() -> None:
    found = corrected([1.0, 2.0], [2.0, 4.0])
    assert (found(3.0), found.typical) == (6.0, None)
    assert corrected([], []) == AS_IT_IS


def test_a_line_never_falls() -> None:
    found = corrected([1.0, 2.0, 3.0], [3.0, 2.0, 1.0])
    assert found.slope > 0 and found.offset == 0


def test_the_number_of_threads_that_is_fastest_counts() -> None:
    assert fastest({"ms 1": 3.0, "ms 2": 2.0, "ms 4": 2.5, "bytes": 1.0}) == 2.0
