"""Scales that do not fit what they quantize are found, whatever the form; those that fit are left alone."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from export.precision.ranges import range_use
from targets.errors import InputError

SIZE = 32


def write(path: Path, scale: float, zero: int = 0, kind: type[np.generic] = np.int8) -> Path:
    """x -> Q -> DQ -> x."""
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["x"], ["value"]),
            helper.make_node("QuantizeLinear", ["value", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
        ],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", SIZE])],
        [
            numpy_helper.from_array(np.array(scale, np.float32), "scale"),
            numpy_helper.from_array(np.array(zero, kind), "zero"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def inputs(seed: int = 0) -> list[dict[str, np.ndarray]]:
    draw = np.random.default_rng(seed)
    return [{"x": draw.normal(size=(8, SIZE)).astype(np.float32)} for _ in range(2)]


@settings(max_examples=15, deadline=None)
@given(factor=st.floats(0.01, 100), seed=st.integers(0, 99))
def test_use_and_clipping_are_what_a_plain_loop_counts(
    factor: float, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    batches = inputs(seed)
    values = np.concatenate([batch["x"] for batch in batches]).clip(min=0)
    scale = np.float32(factor * values.max() / 127)
    (use,) = range_use(write(tmp_path_factory.mktemp("m") / "m.onnx", float(scale)), batches)
    outside = sum(bool(value > 127 * float(scale)) for value in values.ravel())
    assert use.used == pytest.approx(values.max() / (127 * scale), rel=1e-5)
    assert (use.clipped, use.count) == (outside, values.size)


@pytest.mark.parametrize(("kind", "zero"), [(np.int8, 0), (np.uint8, 0), (np.uint8, 20)])
def test_a_scale_ten_times_too_large_or_too_small_is_a_fault(kind: type[np.generic], zero: int, tmp_path: Path) -> None:
    batches = inputs()
    levels = 127 if kind is np.int8 else 255 - zero
    right = float(max(batch["x"].max() for batch in batches)) / levels
    for factor, fault in ((1, None), (0.7, None), (10, "reaches 10 % of the range"), (0.1, "lie outside of its range")):
        (use,) = range_use(write(tmp_path / "m.onnx", factor * right, zero, kind), batches)
        assert (use.fault is None) if fault is None else fault in str(use.fault)


def test_weights_in_a_file_beside_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", 0.1)
    model = onnx.load(path)
    onnx.save(model, tmp_path / "apart.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    assert range_use(tmp_path / "apart.onnx", inputs()) == range_use(path, inputs())


def test_a_file_without_quantizers_asks_for_no_batch_and_one_with_them_does(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", 0.1)
    with pytest.raises(InputError, match="there is none"):
        range_use(path, [])
    model = onnx.load(path)
    del model.graph.node[1:]
    model.graph.node[0].output[0] = "y"
    onnx.save(model, path)
    assert range_use(path, []) == []
