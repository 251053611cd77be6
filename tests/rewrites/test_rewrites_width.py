"""Widths given as a count or as a share."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.rewrites import parse_options
from compress.rewrites.width import counted
from targets.errors import InputError


@given(st.floats(0, 1, exclude_min=True, exclude_max=True), st.integers(1, 5000))
def test_a_share_is_a_multiple_of_eight_near_it(share: float, whole: int) -> None:
    count = counted(share, whole)
    assert 1 <= count <= whole
    assert count % 8 == 0 or count in (whole, 1) or count < 8
    assert abs(count - share * whole) <= 4 or share * whole < 1


def test_a_count_is_taken_as_it_is() -> None:
    assert counted(5000, 300) == 5000 and counted(0.67, 384) == 256 and counted(0.83, 1536) == 1272


@pytest.mark.parametrize("value", [0, 1.5, 0.0, -3, "many", True])
def test_anything_else_is_refused_with_what_is_allowed(value: Any) -> None:
    allowed = "expected a number" if value in (True, "many") else "a count of 1 or more, or a share above 0 and below 1"
    with pytest.raises(InputError, match=f"'prune-neurons': keep: .*{allowed}"):
        parse_options({"use": "prune-neurons", "keep": value})
