"""int8 weights that no session of ONNX Runtime saturates on: neighbours that sum up to 128 at most."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from support.mini_models import images

from export import graph
from export.cpu_graph import optimize_for_cpu
from export.precision.int8_dynamic import to_int8_dynamic
from export.precision.int8_static import to_int8_static
from export.precision.symmetric import PAIR, quantize, quantize_pairs
from runtime import ort


def neighbours(codes_NK: np.ndarray) -> int:
    """The largest sum of two neighbours, without its sign."""
    wide = np.pad(codes_NK.astype(int), ((0, 0), (0, codes_NK.shape[1] % 2)))
    return int(np.abs(wide.reshape(len(wide), -1, 2).sum(axis=-1)).max())


def alone(path: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The first output of a session that anybody opens: no option, nothing of the file rewritten."""
    return np.asarray(onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, inputs)[0])


@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 9),
    tail=st.sampled_from([0.5, 1, 4]),
    seed=st.integers(0, 1000),
    axis=st.sampled_from([0, 1]),
)
def test_neighbours_fit_and_no_channel_is_rounded_worse_than_by_seven_bits(rows, columns, tail, seed, axis) -> None:
    draw = np.random.default_rng(seed).standard_normal((rows, columns))
    weight_NK = (np.sign(draw) * np.abs(draw) ** tail).astype(np.float32)
    found, scales_N = quantize_pairs(weight_NK if axis == 0 else weight_NK.T, axis)
    codes_NK = found if axis == 0 else found.T
    assert neighbours(codes_NK) <= PAIR and found.flags["C_CONTIGUOUS"]
    seven_NK, coarse_N = quantize(weight_NK, 0, PAIR // 2)

    def squares(codes_NK: np.ndarray, scales_N: np.ndarray) -> np.ndarray:
        return np.square(codes_NK * scales_N[:, None].astype(np.float64) - weight_NK).sum(axis=1)

    limit, single = squares(seven_NK, coarse_N), (1e-5 * np.abs(weight_NK).max()) ** 2  # scales are in float32
    assert (squares(codes_NK, scales_N) <= limit * (1 + 1e-3) + columns * single + 1e-30).all()


def test_weights_whose_neighbours_fit_anyway_keep_their_eight_bits() -> None:
    weight_NK = np.array([[127, -100, 28, 100], [0, 0, 0, 0]], np.float32) / 64
    for one, other in zip(quantize_pairs(weight_NK, 0), quantize(weight_NK, 0), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_convolution_gets_seven_bits() -> None:
    kernel = np.random.default_rng(0).standard_normal((4, 3, 2, 2)).astype(np.float32)
    assert np.abs(quantize_pairs(kernel, 0)[0]).max() == PAIR // 2


def layer(path: Path) -> dict[str, np.ndarray]:
    """A layer whose sums are as large as they can be; returns inputs for it."""
    weight = np.full((64, 8), 0.5, np.float32) + np.random.default_rng(0).uniform(0, 0.01, (64, 8)).astype(np.float32)
    made = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="layer")],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return {"x": np.random.default_rng(1).uniform(0.8, 1, (3, 64)).astype(np.float32)}


def test_a_file_of_such_weights_is_right_in_a_session_without_our_runtime(tmp_path: Path) -> None:
    inputs = layer(tmp_path / "fp32.onnx")
    wanted = alone(tmp_path / "fp32.onnx", inputs)
    to_int8_dynamic(tmp_path / "fp32.onnx", tmp_path / "full.onnx")
    to_int8_dynamic(tmp_path / "fp32.onnx", tmp_path / "pairs.onnx", pairs=True)

    def off(path: Path) -> float:
        return float(np.abs(alone(path, inputs) - wanted).max() / np.abs(wanted).max())

    assert off(tmp_path / "pairs.onnx") < 0.01
    if ort.saturates():
        assert off(tmp_path / "full.onnx") > 0.3, "here the other form shows what is saved"


@pytest.mark.parametrize("form", ["dynamic", "static"])
def test_every_layer_of_a_model_has_such_weights_and_the_model_is_as_near(
    form: str, vit_file: Path, tmp_path: Path
) -> None:
    batches = [{"pixel_values": images(8, seed=1)["pixel_values"].numpy()}]
    source, errors = vit_file, []
    if form == "dynamic":
        source = tmp_path / "fused.onnx"
        optimize_for_cpu(vit_file, source)
    for pairs in (False, True):
        path = tmp_path / "int8.onnx"
        if form == "dynamic":
            to_int8_dynamic(source, path, pairs=pairs)
        else:
            to_int8_static(source, path, batches, pairs=pairs)
        errors.append(float(np.abs(ort.load(path).run(batches[0])["logits"] - alone(vit_file, batches[0])).max()))
    model = onnx.load(tmp_path / "int8.onnx")
    axes = {node.input[0]: graph.attribute(node, "axis", 1) for node in model.graph.node}
    stored = {name: one for name, one in graph.weights(model).items() if one.dtype == np.int8 and one.ndim == 2}
    assert len(stored) >= 8
    assert all(neighbours(one if axes.get(name) == 0 else one.T) <= PAIR for name, one in stored.items())
    assert errors[1] < 1.5 * errors[0]
    np.testing.assert_allclose(
        alone(tmp_path / "int8.onnx", batches[0]), ort.load(tmp_path / "int8.onnx").run(batches[0])["logits"], atol=1e-4
    )
