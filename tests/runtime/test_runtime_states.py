"""The contract of recurrent state: names, what is a past, fresh state, positions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import states
from runtime.bundles.manifest import State, Tensor
from targets.errors import InputError


@given(step=st.integers(0, 99), name=st.sampled_from(["key", "value", "sum", "count"]), grows=st.booleans())
def test_a_name_tells_the_past_and_its_present(step: int, name: str, grows: bool) -> None:
    past, present = states.names(step, name, grows)
    assert past == (f"past_key_values.{step}.{name}" if grows else f"past_{step}_{name}")
    assert states.is_past(past) and not states.is_past(present)
    assert states.present_of(past) == present


def test_a_graph_tells_its_states_by_its_inputs() -> None:
    shape = ("batch", 2, "past", 4)
    inputs = [Tensor("input_ids", "int64", ("batch", "chunk")), Tensor("past_key_values.0.key", "float32", shape)]
    assert states.states_of(inputs) == (State("past_key_values.0.key", "present.0.key", "float32", shape),)


def test_a_cache_that_another_program_exported_has_our_names_for_its_sizes() -> None:
    theirs = Tensor("past_key_values.0.key", "float32", ("batch_size", 2, "past_sequence_length", 4))
    (found,) = states.states_of([theirs])
    assert found.shape == ("batch", 2, "past", 4) and states.grows(found)
    assert states.fresh([found], {states.BATCH: 3})[theirs.name].shape == (3, 2, 0, 4)


def test_fresh_state_is_zeros_and_caches_are_empty() -> None:
    cache = State("past_key_values.0.key", "present.0.key", "float32", ("batch", 2, "past", 4))
    fixed = State("past_1_sum", "present_1_sum", "float16", ("batch", 3))
    assert states.grows(cache) and not states.grows(fixed)
    found = states.fresh([cache, fixed], {states.BATCH: 5})
    assert {name: (array.shape, array.dtype.name) for name, array in found.items()} == {
        "past_key_values.0.key": ((5, 2, 0, 4), "float32"),
        "past_1_sum": ((5, 3), "float16"),
    }
    assert not any(array.any() for array in found.values())
    with pytest.raises(InputError, match="'past_1_sum' is missing and no input tells its shape"):
        states.fresh([fixed], {})


@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), seen=st.integers(0, 5))
def test_positions_count_the_real_tokens_behind_the_padding(lengths: list[int], seen: int) -> None:
    mask_BN = np.array([[0] * (6 - length) + [1] * length for length in lengths])
    expected = [[max(0, seen + token - (6 - length)) for token in range(6)] for length in lengths]
    given_BN = states.positions(mask_BN, np.full(len(lengths), seen))
    real = mask_BN.astype(bool)
    assert (given_BN[real] == np.array(expected)[real]).all()
    assert (given_BN[~real] == max(0, seen - 1)).all()
