"""fp16 and both forms of int8: what is changed, what stays, how far the numbers move, equal bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from support.mini_models import HIDDEN, cell_inputs, decoder_inputs, images

from export import graph
from export.cpu_graph import optimize_for_cpu
from export.precision.calibrate import Magnitudes, thresholds
from export.precision.fp16 import to_fp16
from export.precision.fp32 import to_fp32
from export.precision.int8_dynamic import to_int8_dynamic
from export.precision.int8_static import to_int8_static
from export.precision.result import Precision
from export.precision.symmetric import quantize
from runtime import ort
from targets.errors import GateFailed, InputError

Batches = list[dict[str, np.ndarray]]
LINEAR = [f"blocks.{block}.{layer}/MatMul" for block in (0, 1) for layer in ("qkv", "out", "up", "down")]
STATE = [("past_s", "present_s"), ("past_z", "present_z")]


def run(path: Path, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs in the order of the file, on a session as a device opens it."""
    return list(ort.load(path, threads=1).run(inputs).values())


def error(path: Path, reference: Path) -> float:
    """Largest error as a part of the largest logit, over batches of 1 and 7."""
    worst = 0.0
    for batch in (1, 7):
        inputs = {"pixel_values": images(batch, seed=batch)["pixel_values"].numpy()}
        wanted, found = run(reference, inputs)[0], run(path, inputs)[0]
        worst = max(worst, float(np.abs(wanted - found).max() / np.abs(wanted).max()))
    return worst


def types(path: Path) -> dict[str, int]:
    """Element type of every value."""
    model = onnx.load(path)
    found = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    return {one.name: one.type.tensor_type.elem_type for one in (*found.value_info, *found.input, *found.output)}


def test_fp32_is_the_file_itself(vit_file: Path, tmp_path: Path) -> None:
    result = to_fp32(vit_file, tmp_path / "fp32.onnx")
    assert result.path.read_bytes() == vit_file.read_bytes()
    assert result.changed == () and result.bytes == result.source_bytes


def test_fp16_halves_the_file_and_keeps_the_numbers(vit_file: Path, tmp_path: Path) -> None:
    result = to_fp16(vit_file, tmp_path / "fp16.onnx")
    assert result.bytes < 0.6 * result.source_bytes
    assert set(LINEAR) <= set(result.changed) and result.float_weights == {}
    assert 0 < error(result.path, vit_file) < 2e-3


def test_fp16_keeps_norms_and_softmax_in_float32(vit_file: Path, tmp_path: Path) -> None:
    path = to_fp16(vit_file, tmp_path / "fp16.onnx").path
    kinds, seen = types(path), set()
    weights = {one.name: one.data_type for one in onnx.load(path).graph.initializer}
    for node in onnx.load(path).graph.node:
        if node.op_type in ("LayerNormalization", "Softmax"):
            read = {(kinds | weights)[name] for name in node.input}
            assert read == {TensorProto.FLOAT} == {kinds[node.output[0]]}
        if node.op_type in ("MatMul", "Gemm", "Conv", "Gelu"):
            assert {(kinds | weights)[name] for name in node.input} == {TensorProto.FLOAT16}
        seen.add(node.op_type)
    assert {"LayerNormalization", "Softmax", "MatMul", "Cast"} <= seen
    assert kinds["pixel_values"] == kinds["logits"] == TensorProto.FLOAT


def test_fp16_keeps_the_state_in_float32_up_to_the_next_layer(cell_file: Path, tmp_path: Path) -> None:
    result = to_fp16(cell_file, tmp_path / "fp16.onnx")
    kinds = types(result.path)
    for name in ("past_s", "present_s", "past_z", "present_z"):
        assert kinds[name] == TensorProto.FLOAT
    division = next(node for node in onnx.load(result.path).graph.node if node.op_type == "Div")
    assert kinds[division.output[0]] == TensorProto.FLOAT
    assert set(result.changed) == {"q/MatMul", "k/MatMul", "v/MatMul", "out/MatMul"}
    inputs = {name: value.numpy() for name, value in cell_inputs(3, 4).items()}
    for wanted, found in zip(run(cell_file, inputs), run(result.path, inputs), strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-3 * np.abs(wanted).max())


def test_fp16_stores_a_cache_in_float32_and_computes_in_half(decoder_file: Path, tmp_path: Path) -> None:
    cache = [("past_k", "present_k"), ("past_v", "present_v")]
    result = to_fp16(decoder_file, tmp_path / "fp16.onnx")
    kinds = types(result.path)
    assert {kinds[name] for pair in cache for name in pair} == {TensorProto.FLOAT}
    products = [node for node in onnx.load(decoder_file).graph.node if node.op_type == "MatMul"]
    assert {node.name for node in products} == set(result.changed) and len(products) == 7
    for node in onnx.load(result.path).graph.node:  # the cast is on what was just put together, not on the past
        assert node.op_type != "Concat" or "past_k" not in node.input or kinds[node.output[0]] == TensorProto.FLOAT
    inputs = {name: value.numpy() for name, value in decoder_inputs(2, 6, 4).items()}
    for wanted, found in zip(run(decoder_file, inputs), run(result.path, inputs), strict=True):
        np.testing.assert_allclose(found, wanted, atol=5e-3 * np.abs(wanted).max())


def test_a_decoder_runs_in_both_forms_of_int8(decoder_file: Path, tmp_path: Path) -> None:
    inputs = {name: value.numpy() for name, value in decoder_inputs(2, 6, 4).items()}
    static = to_int8_static(decoder_file, tmp_path / "q.onnx", [inputs])
    dynamic = to_int8_dynamic(decoder_file, tmp_path / "d.onnx")
    assert set(static.changed) == {"q/MatMul", "k/MatMul", "v/MatMul", "out/MatMul", "embedding/MatMul"}
    assert set(dynamic.changed) >= set(static.changed) - {"embedding/MatMul"} and dynamic.kept == ()
    for path in (static.path, dynamic.path):
        for wanted, found in zip(run(decoder_file, inputs), run(path, inputs), strict=True):
            np.testing.assert_allclose(found, wanted, atol=0.08 * np.abs(wanted).max())


def small(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], path: Path, shape: tuple[int, ...]) -> Path:
    """A file that maps x to y."""
    parts = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    value = helper.make_tensor_value_info
    body = helper.make_graph(nodes, "g", [value("x", 1, shape)], [value("y", 1, None)], parts)
    body.output[0].type.tensor_type.shape.SetInParent()
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model)
    path.write_bytes(model.SerializeToString())
    return path


def test_fp16_of_an_output_that_the_graph_reads_too(tmp_path: Path) -> None:
    """The keys of a cache: an output, and what attention computes with."""
    weight = np.eye(4, dtype=np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["key"], name="key"),
        helper.make_node("MatMul", ["key", "w"], ["y"], name="layer"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "key", "y")]
    body = helper.make_graph(nodes, "g", values[:1], values[1:], [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "m.onnx")
    result = to_fp16(tmp_path / "m.onnx", tmp_path / "h.onnx")
    assert set(result.changed) == {"key", "layer"}
    x = np.float32([[1, 2, 3, 4]])
    for found in run(result.path, {"x": x}):
        assert found.dtype == np.float32 and np.array_equal(found, x)


def test_fp16_keeps_a_guard_against_division_by_zero(tmp_path: Path) -> None:
    """A norm clamped at 1e-9: in half that is 0, and an empty row 0 / 0."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="layer"),
        helper.make_node("ReduceL2", ["m", "axis"], ["length"], name="length"),
        helper.make_node("Max", ["length", "least"], ["safe"], name="clamp"),
        helper.make_node("Div", ["m", "safe"], ["y"], name="div"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y")]
    stored = {"w": np.eye(4, dtype=np.float32), "axis": np.array([-1]), "least": np.array(1e-9, np.float32)}
    weights = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    body = helper.make_graph(nodes, "g", values[:1], values[1:], weights)
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "m.onnx")
    result = to_fp16(tmp_path / "m.onnx", tmp_path / "h.onnx")
    assert "clamp" in result.kept and "least" in graph.weights(graph.load(result.path))
    found = run(result.path, {"x": np.float32([[3, 4, 0, 0], [0, 0, 0, 0]])})[0]
    np.testing.assert_allclose(found, [[0.6, 0.8, 0, 0], [0, 0, 0, 0]], atol=1e-3)


def test_caches_with_the_names_of_optimum_are_state(decoder_file: Path, tmp_path: Path) -> None:
    names = {"past_k": "past_key_values.0.key", "past_v": "past_key_values.0.value"}
    names |= {"present_k": "present.0.key", "present_v": "present.0.value"}
    model = onnx.load(decoder_file)
    for part in (*model.graph.input, *model.graph.output):
        part.name = names.get(part.name, part.name)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    onnx.save(model, tmp_path / "renamed.onnx")
    renamed = to_fp16(tmp_path / "renamed.onnx", tmp_path / "fp16.onnx")
    plain = to_fp16(decoder_file, tmp_path / "plain.onnx")
    assert (renamed.changed, renamed.kept, renamed.operators) == (plain.changed, plain.kept, plain.operators)


def test_fp16_clips_a_mask_instead_of_making_it_infinite(tmp_path: Path) -> None:
    mask = np.array([0, np.finfo(np.float32).min], np.float32)
    nodes = [helper.make_node("Add", ["x", "mask"], ["m"], name="add"), helper.make_node("Softmax", ["m"], ["y"])]
    source = small(nodes, {"mask": mask}, tmp_path / "m.onnx", (1, 2))
    path = to_fp16(source, tmp_path / "h.onnx").path
    np.testing.assert_array_equal(run(path, {"x": np.zeros((1, 2), np.float32)})[0], [[1, 0]])


def test_fp16_keeps_positions_and_what_is_between_parts_of_a_norm(tmp_path: Path) -> None:
    weights = {
        "frequency": np.array([1.0, 0.01], np.float32),
        "two": np.array(2, np.float32),
        "eps": np.array(1e-9, np.float32),
    }
    nodes = [
        helper.make_node("Mul", ["x", "frequency"], ["angle"], name="angle"),
        helper.make_node("Sin", ["angle"], ["wave"], name="sin"),
        helper.make_node("Pow", ["wave", "two"], ["square"], name="pow"),
        helper.make_node("Add", ["square", "eps"], ["safe"], name="eps"),
        helper.make_node("Sqrt", ["safe"], ["y"], name="sqrt"),
    ]
    source = small(nodes, weights, tmp_path / "s.onnx", (1, 2))
    result = to_fp16(source, tmp_path / "h.onnx")
    assert set(result.kept) == {"angle", "sin", "pow", "eps", "sqrt"}
    x = np.array([[40001.0, 40003.0]], np.float32)
    np.testing.assert_allclose(run(result.path, {"x": x})[0], run(source, {"x": x})[0], rtol=1e-5)


def test_static_int8_is_symmetric_int8_alone(vit_file: Path, tmp_path: Path, batches: Batches) -> None:
    result = to_int8_static(vit_file, tmp_path / "q.onnx", batches)
    kinds = types(result.path) | {one.name: one.data_type for one in onnx.load(result.path).graph.initializer}
    assert not {TensorProto.UINT8, TensorProto.INT32, TensorProto.UINT16} & set(kinds.values())
    weights = graph.weights(onnx.load(result.path))
    pairs = [node for node in onnx.load(result.path).graph.node if node.op_type.endswith("quantizeLinear")]
    pairs += [node for node in onnx.load(result.path).graph.node if node.op_type == "QuantizeLinear"]
    assert pairs
    for node in pairs:
        assert weights[node.input[2]].dtype == np.int8 and not weights[node.input[2]].any()
        assert (weights[node.input[1]] > 0).all()
    assert {node.domain for node in onnx.load(result.path).graph.node} == {""}
    assert min(int(array.min()) for array in weights.values() if array.dtype == np.int8) >= -127


def test_static_int8_covers_every_layer_per_channel(vit_file: Path, tmp_path: Path, batches: Batches) -> None:
    result = to_int8_static(vit_file, tmp_path / "q.onnx", batches)
    assert set(result.changed) == {*LINEAR, "patch/Conv", "head/Gemm"} and result.kept == ()
    assert set(result.float_weights) == {"position"}
    weights = graph.weights(onnx.load(result.path))
    assert weights["blocks.0.up.weight.T.scale"].shape == (96,)
    assert weights["patch.weight.scale"].shape == (HIDDEN,)
    assert result.bytes < 0.45 * result.source_bytes
    assert 0 < error(result.path, vit_file) < 0.06


def test_static_int8_weights_are_the_nearest_steps(vit_file: Path, tmp_path: Path, batches: Batches) -> None:
    path = to_int8_static(vit_file, tmp_path / "q.onnx", batches).path
    real, stored = graph.weights(onnx.load(vit_file)), graph.weights(onnx.load(path))
    for name in ("blocks.1.down.weight.T", "blocks.0.qkv.weight.T"):
        scales = stored[f"{name}.scale"]
        assert np.abs(stored[f"{name}.int8"] * scales - real[name]).max(axis=0) == pytest.approx(scales / 2, rel=0.1)
        np.testing.assert_allclose(scales, np.abs(real[name]).max(axis=0) / 127, rtol=1e-6)


def test_a_value_read_by_three_layers_is_quantized_once(
    tmp_path: Path, looped_file: Path, vit_file: Path, batches: Batches
) -> None:
    path = to_int8_static(looped_file, tmp_path / "q.onnx", batches).path
    nodes = onnx.load(path).graph.node
    quantized = [node.input[0] for node in nodes if node.op_type == "QuantizeLinear"]
    assert len(set(quantized)) == len(quantized)
    once = to_int8_static(vit_file, tmp_path / "v.onnx", batches)
    assert sum(a.nbytes for a in graph.weights(onnx.load(path)).values() if a.ndim > 1) == sum(
        a.nbytes for a in graph.weights(onnx.load(once.path)).values() if a.ndim > 1
    )  # the weights of a loop are stored once in int8 too


def test_excluded_layers_stay_float(vit_file: Path, tmp_path: Path, batches: Batches) -> None:
    exclude = ["blocks.0.up/MatMul", "head/Gemm"]
    fused = tmp_path / "fused.onnx"
    optimize_for_cpu(vit_file, fused)
    for result in (
        to_int8_static(vit_file, tmp_path / "q.onnx", batches, exclude=exclude),
        to_int8_dynamic(fused, tmp_path / "d.onnx", exclude=exclude),
    ):
        assert result.kept == tuple(sorted(exclude))
        assert not set(exclude) & set(result.changed)
        assert {"blocks.0.up.weight.T"} <= set(result.float_weights)


def test_an_unknown_layer_cannot_be_excluded(vit_file: Path, tmp_path: Path, batches: Batches) -> None:
    with pytest.raises(InputError, match=r"cannot exclude 'blocks.0.upp/MatMul'.*blocks.0.up/MatMul"):
        to_int8_static(vit_file, tmp_path / "q.onnx", batches, exclude=["blocks.0.upp/MatMul"])
    with pytest.raises(InputError, match="no such layer"):
        to_int8_dynamic(vit_file, tmp_path / "d.onnx", exclude=["nothing"])


@pytest.mark.parametrize("fuse", [False, True])
def test_dynamic_int8_differs_little(vit_file: Path, tmp_path: Path, fuse: bool) -> None:
    source = tmp_path / "source.onnx"
    if fuse:
        optimize_for_cpu(vit_file, source)
    else:
        to_fp32(vit_file, source)
    result = to_int8_dynamic(source, tmp_path / "d.onnx")
    assert 0 < error(result.path, vit_file) < 0.04
    assert result.kept == ()
    assert len(result.changed) == 9  # two blocks of four layers and the head
    assert result.operators.get("QAttention", 0) == (2 if fuse else 0)
    assert set(result.float_weights) <= {"patch.weight", "position"}


def test_dynamic_int8_of_a_tied_embedding(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    table = random.standard_normal((2000, 64)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["x"], ["ids"], to=TensorProto.INT64, name="ids"),
        helper.make_node("Gather", ["table", "ids"], ["e"], name="embed"),
        helper.make_node("Transpose", ["table"], ["turned"], perm=[1, 0], name="turn"),
        helper.make_node("MatMul", ["e", "turned"], ["y"], name="head"),
    ]
    source = small(nodes, {"table": table}, tmp_path / "t.onnx", (3,))
    result = to_int8_dynamic(source, tmp_path / "q.onnx")
    assert set(result.changed) == {"embed", "head"} and result.float_weights == {}
    ids = np.array([0, 7, 1999], np.float32)
    found = run(result.path, {"x": ids})[0]
    assert np.abs(found - run(source, {"x": ids})[0]).max() < 0.02 * np.abs(found).max()


@pytest.mark.parametrize("form", ["fp16", "static", "dynamic", "fused"])
def test_equal_inputs_give_equal_bytes(form: str, vit_file: Path, tmp_path: Path, batches: Batches) -> None:
    def write(path: Path) -> bytes:
        if form == "fp16":
            to_fp16(vit_file, path)
        elif form == "static":
            to_int8_static(vit_file, path, batches)
        elif form == "dynamic":
            to_int8_dynamic(vit_file, path)
        else:
            optimize_for_cpu(vit_file, path)
        return path.read_bytes()

    assert write(tmp_path / "one.onnx") == write(tmp_path / "two.onnx")


def test_int8_and_half_go_together(vit_file: Path, tmp_path: Path, batches: Batches) -> None:
    static = to_int8_static(vit_file, tmp_path / "q.onnx", batches).path
    result: Precision = to_fp16(static, tmp_path / "h.onnx")
    assert error(result.path, vit_file) < 0.06
    assert result.bytes < static.stat().st_size


def test_calibration_refuses_nothing_and_nonsense(vit_file: Path, tmp_path: Path, batches: Batches) -> None:
    with pytest.raises(InputError, match="needs calibration data"):
        to_int8_static(vit_file, tmp_path / "q.onnx", [])
    with pytest.raises(InputError, match=r"unknown calibration method 'best'; allowed: minmax, entropy, percentile"):
        to_int8_static(vit_file, tmp_path / "q.onnx", batches, method="best")  # type: ignore[arg-type]
    bad = [{"pixel_values": np.full((1, 3, 16, 16), np.nan, np.float32)}]
    with pytest.raises(GateFailed, match="not finite"):
        to_int8_static(vit_file, tmp_path / "q.onnx", bad)
    assert list(tmp_path.iterdir()) == []


def test_calibration_reads_its_batches_once(vit_file: Path, batches: Batches) -> None:
    def once() -> Iterator[dict[str, np.ndarray]]:
        yield from batches

    model = graph.load(vit_file)
    found = thresholds(model, ["pixel_values", "logits"], once(), "minmax")
    wanted = max(float(np.abs(batch["pixel_values"]).max()) for batch in batches)
    assert found["pixel_values"] == pytest.approx(wanted)
    assert found["logits"] == pytest.approx(max(float(np.abs(run(vit_file, one)[0]).max()) for one in batches))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=30), min_size=1, max_size=6))
def test_thresholds_lie_within_what_was_seen(parts: list[list[float]]) -> None:
    magnitudes = Magnitudes()
    for part in parts:
        magnitudes.add(np.array(part, np.float32))
    largest = max(abs(np.float32(value)) for part in parts for value in part)
    assert magnitudes.threshold("minmax") == largest
    for method in ("percentile", "entropy"):
        assert 0 <= magnitudes.threshold(method) <= largest
    if magnitudes.counts is not None:
        assert magnitudes.counts.sum() >= sum(len(part) for part in parts if max(map(abs, part)) > 1e-30)


def test_percentile_is_numpys_up_to_a_bin() -> None:
    values = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
    magnitudes = Magnitudes()
    for part in np.split(values, 20):
        magnitudes.add(part)
    wanted = np.percentile(np.abs(values), 99.99)
    assert magnitudes.threshold("percentile") == pytest.approx(wanted, abs=2 * magnitudes.top / 2048)


def test_entropy_cuts_off_a_far_outlier() -> None:
    values = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    values[0] = 60
    magnitudes = Magnitudes()
    magnitudes.add(values)
    assert magnitudes.threshold("minmax") == 60
    assert 2 < magnitudes.threshold("entropy") < 15
    assert magnitudes.threshold("percentile") < 6


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 1), st.integers(0, 2**31))
def test_quantized_weights_are_within_half_a_step(rows: int, columns: int, axis: int, seed: int) -> None:
    weight = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)
    weight[0] *= seed % 2
    int8, scales = quantize(weight, axis)
    shape = (-1, 1) if axis == 0 else (1, -1)
    assert np.abs(int8 * scales.reshape(shape) - weight).max() <= scales.max() * 0.5001
    assert (scales > 0).all() and np.abs(int8.astype(int)).max() <= 127
