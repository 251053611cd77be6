"""Inputs are held against their declaration; only a cache may be empty."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.bundles.manifest import State, Tensor
from runtime.bundles.tensors import check_inputs, fresh_state
from targets.errors import InputError

CACHE = State("past_key_values.0.key", "present.0.key", "float32", ("batch", 2, "past", 3))
TENSORS = (Tensor("input_ids", "int64", ("batch", "chunk")), Tensor(CACHE.past, "float32", CACHE.shape))


def test_a_fresh_cache_is_empty_and_accepted() -> None:
    ids = {"input_ids": np.ones((2, 4), np.int64)}
    fresh = fresh_state([CACHE], ids, TENSORS)
    assert fresh[CACHE.past].shape == (2, 2, 0, 3)
    assert check_inputs({**ids, **fresh}, TENSORS) == {"batch": 2, "chunk": 4, "past": 0}


@pytest.mark.parametrize("shape", [(0, 4), (2, 0)])
def test_nothing_else_may_be_empty(shape: tuple[int, int]) -> None:
    inputs = {"input_ids": np.ones(shape, np.int64), CACHE.past: np.zeros((2, 2, 0, 3), np.float32)}
    with pytest.raises(InputError, match="input_ids"):
        check_inputs(inputs, TENSORS)
