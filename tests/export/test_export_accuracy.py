"""What keeps a quantized file accurate: smoothed outliers, some layers in fp32, 4-bit weights in blocks."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from export import graph
from export.numerics import check_files
from export.precision.int4 import BLOCK, to_int4
from export.precision.int8_dynamic import to_int8_dynamic
from export.precision.int8_static import activation_ranges, quantize_static, to_int8_static
from export.precision.result import Precision
from export.precision.sensitivity import quantize_within
from export.precision.smooth import Smoothed, smooth
from export.sharing import assert_shared_once
from runtime import ort
from targets.errors import GateFailed, InputError

Batches = list[dict[str, np.ndarray]]


def save(path: Path, nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], width: int) -> Path:
    """A file of [batch, token, width] -> y."""
    body = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "token", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "token", "out"])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def norm_then_layers(path: Path, width: int, outlier: float, seed: int, layers: int = 2) -> Path:
    """LayerNorm with one loud channel, read by linear layers that are summed."""
    random = np.random.default_rng(seed)
    gain = random.uniform(0.5, 1.5, width).astype(np.float32)
    gain[seed % width] *= outlier
    weights = {"gain": gain, "bias": random.standard_normal(width).astype(np.float32)}
    nodes = [helper.make_node("LayerNormalization", ["x", "gain", "bias"], ["n"], name="norm", axis=-1)]
    for index in range(layers):
        weights[f"w{index}"] = random.standard_normal((width, 6)).astype(np.float32)
        nodes.append(helper.make_node("MatMul", ["n", f"w{index}"], [f"y{index}"], name=f"layer{index}"))
    nodes.append(helper.make_node("Sum", [f"y{index}" for index in range(layers)], ["y"], name="sum"))
    return save(path, nodes, weights, width)


def tokens(width: int, seed: int = 0, batch: int = 4) -> Batches:
    random = np.random.default_rng(seed)
    return [{"x": random.standard_normal((batch, 5, width)).astype(np.float32)} for _ in range(2)]


def rms(path: Path, reference: Path, batches: Batches) -> float:
    """Error of the output as a part of its size."""
    found, wanted = ort.load(path), ort.load(reference)
    pairs = [(found.run(batch), wanted.run(batch)) for batch in batches]
    names = [tensor.name for tensor in wanted.outputs]
    apart = sum(float(np.square(got[name] - want[name]).sum()) for got, want in pairs for name in names)
    return float((apart / sum(float(np.square(want[name]).sum()) for _, want in pairs for name in names)) ** 0.5)


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 12), st.floats(1, 200), st.floats(0, 1), st.integers(0, 2**31))
def test_smoothing_changes_no_number(
    tmp_path_factory: pytest.TempPathFactory, width: int, outlier: float, alpha: float, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("smooth")
    source = norm_then_layers(folder / "m.onnx", width, outlier, seed)
    assert smooth(source, folder / "s.onnx", tokens(width, seed), alpha) == Smoothed(("n",), ())
    check_files(source, folder / "s.onnx", tokens(width, seed + 1))
    assert [node.op_type for node in graph.load(folder / "s.onnx").graph.node] == [
        node.op_type for node in graph.load(source).graph.node
    ]


def test_smoothing_makes_int8_exact_where_one_channel_is_loud(tmp_path: Path) -> None:
    source = norm_then_layers(tmp_path / "m.onnx", 32, 100.0, 3)
    batches = tokens(32)
    smooth(source, tmp_path / "s.onnx", batches)
    rough = to_int8_static(source, tmp_path / "rough.onnx", batches, "minmax").path
    fine = to_int8_static(tmp_path / "s.onnx", tmp_path / "fine.onnx", batches, "minmax").path
    quiet = tokens(32, 7)
    model = graph.weights(graph.load(tmp_path / "s.onnx"))
    assert 0 < rms(fine, source, quiet) < 0.02
    largest = np.abs(np.concatenate([ort.load(source).run(batch)["y"].ravel() for batch in batches])).max()
    assert largest > 0 and model["norm.smooth1"].max() < 12  # the square root of what it was
    others = [index for index in range(32) if index != 3]
    loud = model["norm.smooth1"][3] / np.median(model["norm.smooth1"][others])
    assert loud < 15, "100 times as loud became about its root"
    assert rms(rough, source, quiet) >= rms(fine, source, quiet) * 0.5


def test_smoothing_a_looped_model_keeps_its_weights_shared(looped_file: Path, tmp_path: Path, batches: Batches) -> None:
    found = smooth(looped_file, tmp_path / "s.onnx", batches)
    assert len(found.in_norms) == 2 * 2 * 3, "both norms of two blocks in each of three loops; the last norm is indexed"
    check_files(looped_file, tmp_path / "s.onnx", [batches[0]])
    before = {one.name: list(one.dims) for one in graph.load(looped_file).graph.initializer if len(one.dims) == 2}
    after = {
        one.name: list(one.dims) for one in graph.load(tmp_path / "s.onnx").graph.initializer if len(one.dims) == 2
    }
    assert before == after
    assert_shared_once(tmp_path / "s.onnx")


def residual(path: Path, loud: float) -> Path:
    """Post-norm: the norm's output is the residual stream, too. `loud`: the gain of one channel."""
    random = np.random.default_rng(0)
    gain = np.array([1, loud, 1, 1, 1, 1, 1, 1], np.float32)
    weights = {"gain": gain, "w": random.standard_normal((8, 8)).astype(np.float32)}
    nodes = [
        helper.make_node("LayerNormalization", ["x", "gain"], ["n"], name="norm"),
        helper.make_node("MatMul", ["n", "w"], ["m"], name="layer"),
        helper.make_node("Gelu", ["m"], ["g"], name="gelu"),
        helper.make_node("Add", ["g", "n"], ["y"], name="add"),
    ]
    return save(path, nodes, weights, 8)


def test_a_loud_value_that_something_else_reads_gets_a_product_and_a_quiet_one_none(tmp_path: Path) -> None:
    loud = residual(tmp_path / "loud.onnx", 100.0)
    assert smooth(loud, tmp_path / "s.onnx", tokens(8)) == Smoothed((), ("n",))
    check_files(loud, tmp_path / "s.onnx", tokens(8, 5))
    plain = rms(to_int8_static(loud, tmp_path / "plain.onnx", tokens(8), "minmax").path, loud, tokens(8, 5))
    smoothed = rms(
        to_int8_static(tmp_path / "s.onnx", tmp_path / "fine.onnx", tokens(8), "minmax").path, loud, tokens(8, 5)
    )
    assert smoothed < plain
    quiet = residual(tmp_path / "quiet.onnx", 1.0)
    assert smooth(quiet, tmp_path / "t.onnx", tokens(8)) == Smoothed((), ())
    check_files(quiet, tmp_path / "t.onnx", tokens(8), tolerance=0.0)
    with pytest.raises(InputError, match=r"smoothing is 1\.5, allowed: from 0"):
        smooth(quiet, tmp_path / "t.onnx", tokens(8), 1.5)


def test_a_written_out_rms_norm_takes_the_scale_into_its_gain(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    weights = {
        "two": np.array(2, np.float32),
        "axis": np.array([-1]),
        "gain": np.array([1, 50, 1, 1], np.float32),
        "w": random.standard_normal((4, 6)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Pow", ["x", "two"], ["p"], name="pow"),
        helper.make_node("ReduceMean", ["p", "axis"], ["mean"], name="mean"),
        helper.make_node("Sqrt", ["mean"], ["root"], name="sqrt"),
        helper.make_node("Div", ["x", "root"], ["d"], name="div"),
        helper.make_node("Mul", ["gain", "d"], ["n"], name="mul"),
        helper.make_node("MatMul", ["n", "w"], ["y"], name="layer"),
    ]
    source = save(tmp_path / "m.onnx", nodes, weights, 4)
    assert smooth(source, tmp_path / "s.onnx", tokens(4)) == Smoothed(("n",), ())
    check_files(source, tmp_path / "s.onnx", tokens(4, 3))


def brittle(path: Path) -> Path:
    """Two layers side by side: in the second one column cancels a sum of large values, which int8 cannot."""
    random = np.random.default_rng(0)
    sane = random.standard_normal((8, 4)).astype(np.float32)
    insane = np.zeros((8, 4), np.float32)
    insane[0], insane[1], insane[2] = 1000, -1000, 0.5
    weights = {"sane": sane, "insane": insane, "twin": np.array([0, 0, 2, 3, 4, 5, 6, 7])}
    nodes = [
        helper.make_node("Gather", ["x", "twin"], ["t"], name="twins", axis=2),
        helper.make_node("MatMul", ["t", "sane"], ["a"], name="sane"),
        helper.make_node("MatMul", ["t", "insane"], ["b"], name="insane"),
        helper.make_node("Add", ["a", "b"], ["y"], name="add"),
    ]
    return save(path, nodes, weights, 8)


def test_the_layer_that_costs_most_stays_in_fp32(tmp_path: Path) -> None:
    source, batches = brittle(tmp_path / "m.onnx"), tokens(8)
    batches = [{"x": batch["x"] * np.float32(10)} for batch in batches]
    ranges = activation_ranges(source, batches, "minmax")

    def quantize(path: Path, exclude: Collection[str]) -> Precision:
        return quantize_static(source, path, ranges, exclude)

    free = quantize_within(source, tmp_path / "q.onnx", quantize, batches, tolerance=10.0, most=8)
    assert free and free.costs == {} and free.precision.kept == ()
    whole = free.error
    found = quantize_within(source, tmp_path / "q.onnx", quantize, batches, tolerance=whole / 2, most=8)
    assert found and list(found.costs) == ["insane", "sane"] and found.precision.kept == ("insane",)
    assert found.costs["insane"] > found.costs["sane"]
    assert rms(tmp_path / "q.onnx", source, batches) == pytest.approx(found.error, rel=1e-3)
    assert "1 layers kept in fp32" in found.describe()
    never = quantize_within(source, tmp_path / "q.onnx", quantize, batches, tolerance=0.0, most=8)
    assert not never and never.precision.kept == ("insane",), "one layer at least is quantized"
    assert "more than the 0 asked for" in never.describe()
    bounded = quantize_within(source, tmp_path / "q.onnx", quantize, batches, tolerance=0.0, most=0)
    assert not bounded and bounded.precision.kept == () and bounded.costs == {}


@pytest.mark.parametrize("most", [1, 3])
def test_no_more_layers_than_allowed_stay_in_fp32(vit_file: Path, tmp_path: Path, batches: Batches, most: int) -> None:
    told: list[tuple[int, int]] = []
    found = quantize_within(
        vit_file,
        tmp_path / "q.onnx",
        lambda path, exclude: to_int8_dynamic(vit_file, path, exclude),
        batches[:1],
        tolerance=0.0,
        most=most,
        tell=lambda done, total: told.append((done, total)),
    )
    assert not found and len(found.precision.kept) == most
    assert set(found.precision.kept) == set(list(found.costs)[:most])
    assert told[-1] == (len(found.costs), len(found.costs))


def test_outputs_that_are_not_finite_are_a_failure(tmp_path: Path) -> None:
    source = norm_then_layers(tmp_path / "m.onnx", 4, 1.0, 0)

    def broken(path: Path, exclude: Collection[str]) -> Precision:
        result = to_int8_static(source, path, tokens(4))
        model = graph.load(path)
        for one in model.graph.initializer:
            if one.name.endswith(".scale"):
                one.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(one) * np.float32(np.inf), one.name))
        onnx.save(model, path)
        return result

    with pytest.raises(GateFailed, match="is not finite after quantization"):
        quantize_within(source, tmp_path / "q.onnx", broken, tokens(4), tolerance=0.1, most=1)


def test_four_bit_weights_are_a_step_away_and_a_sixth_of_the_bytes(tmp_path: Path) -> None:
    width, out = 4 * BLOCK, 96
    weight = np.random.default_rng(0).standard_normal((width, out)).astype(np.float32)
    source = save(
        tmp_path / "m.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"], name="layer")], {"w": weight}, width
    )
    result = to_int4(source, tmp_path / "q.onnx")
    assert result.changed == ("layer",) and result.operators == {"Cast": 1, "MatMulNBits": 1, "Mul": 1}
    assert result.float_bytes == 0, "scales take a byte"
    assert result.bytes < source.stat().st_size / 6.4
    batch = tokens(width)[0]
    found = ort.load(result.path).run(batch)["y"]
    spans = weight.reshape(-1, BLOCK, out)
    half_step = (np.maximum(spans.max(axis=1), 0) - np.minimum(spans.min(axis=1), 0)).max() / 15 / 2
    wanted = batch["x"] @ weight
    bound = np.abs(batch["x"]).sum(axis=-1, keepdims=True) * half_step
    assert np.all(np.abs(found - wanted) <= 1.2 * bound) and np.abs(found - wanted).max() > 0
    assert rms(result.path, source, tokens(width)) < 0.15


def test_four_bit_weights_that_are_shared_stay_shared_and_unknown_layers_are_refused(
    looped_file: Path, tmp_path: Path, batches: Batches
) -> None:
    result = to_int4(looped_file, tmp_path / "q.onnx")
    assert_shared_once(result.path)
    stored = {one.name for one in graph.load(result.path).graph.initializer}
    assert result.operators["MatMulNBits"] == 2 * 4 * 3
    assert len([name for name in stored if name.endswith(".int4")]) == 2 * 4
    assert rms(result.path, looped_file, batches[:1]) < 0.5
    with pytest.raises(InputError, match=r"cannot exclude 'blocks\.0\.nothing'"):
        to_int4(looped_file, tmp_path / "q.onnx", exclude=["blocks.0.nothing"])
