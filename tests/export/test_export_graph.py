"""Passes over ONNX graphs: equal numbers from fewer nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from export import graph


def scaled_twice(first: float, second: float, shape: list[int]) -> Any:
    """y = (x * first) w and z = ((x * first) * second) w, as attention over a window beside linear attention has it."""
    numbers = {"first": first, "second": second, "w": np.eye(shape[-1]) * 0.5}
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape if name == "x" else [None] * len(shape))
        for name in "xyz"
    ]
    nodes = [
        helper.make_node("Mul", ["x", "first"], ["once"]),
        helper.make_node("Mul", ["once", "second"], ["twice"]),
        helper.make_node("MatMul", ["once", "w"], ["y"]),
        helper.make_node("MatMul", ["twice", "w"], ["z"]),
    ]
    weights = [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in numbers.items()]
    body = helper.make_graph(nodes, "scales", values[:1], values[1:], weights)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@settings(max_examples=15, deadline=None)
@given(first=st.floats(0.1, 10), second=st.floats(0.1, 10), shape=st.lists(st.integers(1, 5), min_size=2, max_size=4))
def test_a_scaled_scale_is_one_scale_and_gives_the_same(first: float, second: float, shape: list[int]) -> None:
    model = scaled_twice(first, second, shape)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    graph.merge_scales(model)
    graph.tidy(model)
    assert [list(node.input) for node in model.graph.node if node.op_type == "Mul"] == [
        ["x", "first"],
        ["x", "twice.scale"],
    ]
    y, z = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})
    np.testing.assert_allclose(y, x * first * 0.5, rtol=1e-5)
    np.testing.assert_allclose(z, x * first * second * 0.5, rtol=1e-5)


def test_numbers_that_are_not_constant_or_not_one_stay() -> None:
    model = scaled_twice(2.0, 3.0, [2, 4])
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.arange(4, dtype=np.float32), "second"))
    before = model.SerializeToString()
    graph.merge_scales(model)
    assert model.SerializeToString() == before
