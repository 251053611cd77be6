"""Limits are read with their units, and what they allow is what they say."""

from __future__ import annotations

import pytest

from compress.search.limits import Limits, milliseconds, size
from targets.errors import InputError


@pytest.mark.parametrize(
    ("text", "ms"), [("1.2ms", 1.2), ("800us", 0.8), ("2 s", 2000.0), (".5ms", 0.5), (" 3ms ", 3.0)]
)
def test_a_time_is_read_with_its_unit(text: str, ms: float) -> None:
    assert milliseconds("--max-latency", text) == pytest.approx(ms)


@pytest.mark.parametrize(
    ("text", "count"), [("2MB", 2_000_000), ("64MiB", 64 * 2**20), ("300kB", 300_000), ("1.5 GB", 1_500_000_000)]
)
def test_a_size_is_read_with_its_unit(text: str, count: int) -> None:
    assert size("--max-bytes", text) == count


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("1.2", "has no unit"),
        ("1.2mb", "unknown unit 'mb'"),
        ("fast", "is not a number with a unit"),
        ("-3ms", "is not a number with a unit"),
        ("0ms", "is nothing at all"),
        ("1e999ms", "is not a number with a unit"),
    ],
)
def test_a_time_that_says_nothing_is_refused_with_an_example(text: str, cause: str) -> None:
    with pytest.raises(InputError, match=cause) as refusal:
        milliseconds("--max-latency", text)
    assert "write it like 1.2ms" in str(refusal.value) and len(str(refusal.value)) < 300


def test_of_two_limits_on_time_the_tighter_one_holds() -> None:
    assert Limits(latency_ms=4.0, speedup=2.0).most_ms(10.0) == 4.0
    assert Limits(latency_ms=4.0, speedup=5.0).most_ms(10.0) == 2.0
    assert Limits().most_ms(10.0) is None


def test_each_limit_that_is_missed_is_named_with_both_numbers() -> None:
    limits = Limits(latency_ms=1.0, file_bytes=1_000_000, memory_bytes=50_000_000)
    assert limits.missed(1.0, 9.0, 1_000_000, 50_000_000) == []
    assert limits.missed(1.5, 9.0, 2_000_000, 60_000_000) == [
        "latency 1.5 ms, allowed 1 ms",
        "file 2 MB, allowed 1 MB",
        "memory 60 MB, allowed 50 MB",
    ]
