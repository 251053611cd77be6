"""What a model file is fed with."""

from __future__ import annotations

import numpy as np

from compress.tasks.feeding import fitted
from runtime.bundles.manifest import Tensor


def test_states_have_the_shapes_of_the_graph_and_not_of_the_original() -> None:
    samples = {
        "input_ids": np.ones((2, 5), np.int64),
        "past_key_values.0.key": np.zeros((2, 4, 0, 12), np.float32),
        "past_key_values.1.key": np.zeros((2, 4, 0, 12), np.float32),
    }
    graph = [
        Tensor("input_ids", "int64", ("batch", "chunk")),
        Tensor("past_key_values.0.key", "float32", ("batch", 1, "past", 32)),
        Tensor("past_s.1", "float32", ("batch", 4, 8, 12)),
    ]
    given = fitted("model.onnx", samples, graph)
    assert {name: array.shape for name, array in given.items()} == {
        "input_ids": (2, 5),
        "past_key_values.0.key": (2, 1, 0, 32),
        "past_s.1": (2, 4, 8, 12),
    }
    assert np.array_equal(given["input_ids"], samples["input_ids"]) and not given["past_s.1"].any()
