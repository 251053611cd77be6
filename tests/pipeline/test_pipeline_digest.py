"""Digests of values, code and versions."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.pipeline.digest import digest_of, library_versions
from targets.errors import EnvironmentLacks

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def typed(value: Any) -> Any:
    """`value` such that == also tells 1, 1.0 and True (and 0.0 and -0.0) apart, which JSON text does."""
    if isinstance(value, dict):
        return {name: typed(item) for name, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    return (type(value), repr(value))


@given(JSON, JSON)
def test_digests_are_equal_just_when_values_are(first: Any, second: Any) -> None:
    assert (digest_of(first) == digest_of(second)) == (typed(first) == typed(second))


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_the_order_of_keys_does_not_matter(value: dict[str, int]) -> None:
    assert digest_of(dict(reversed(value.items()))) == digest_of(value)


def test_tuples_and_other_mappings_count_as_lists_and_dicts() -> None:
    assert digest_of(MappingProxyType({"a": (1, 2)})) == digest_of({"a": [1, 2]})


@pytest.mark.parametrize("value", [{1: "a"}, {"a": {None: 1}}, [b"bytes"], {"p": Path("x")}, {1, 2}])
def test_what_json_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        digest_of(value)


def test_library_versions_name_what_is_missing() -> None:
    assert library_versions(["rich", "pytest"]) == {
        "pytest": pytest.__version__,
        "rich": library_versions(["rich"])["rich"],
    }
    with pytest.raises(EnvironmentLacks, match="no-such-distribution"):
        library_versions(["rich", "no-such-distribution"])
