"""4-bit weights: what is rounded, what makes up for it, what is stored once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from export import graph
from export.precision import gptq
from export.precision.blocks import Blocks, Grid, search_grid
from export.precision.gptq import in_blocks
from export.precision.int4 import BLOCK, fit_int4, to_int4
from runtime import ort
from targets.errors import GateFailed, InputError


def tied_decoder(path: Path, vocabulary: int, width: int, seed: int = 0) -> Path:
    """Ids -> rows of a table -> one product -> logits by the same table."""
    random = np.random.default_rng(seed)
    table = random.standard_normal((vocabulary, width)).astype(np.float32)
    layer = random.standard_normal((width, width)).astype(np.float32) / np.float32(np.sqrt(width))
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], name="embed"),
        helper.make_node("MatMul", ["rows", "layer"], ["mixed"], name="layer"),
        helper.make_node("Transpose", ["table"], ["turned"], name="turn", perm=[1, 0]),
        helper.make_node("MatMul", ["mixed", "turned"], ["logits"], name="head"),
    ]
    body = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "token"])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "token", vocabulary]),
            helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["batch", "token", width]),
        ],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(layer, "layer")],
    )
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def texts(vocabulary: int, seed: int = 1, count: int = 4) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [{"ids": random.integers(0, vocabulary, (2, 16))} for _ in range(count)]


def correlated(width: int, rows: int, seed: int) -> np.ndarray:
    """Inputs (rows, width) that lie near a few directions, as activations do."""
    random = np.random.default_rng(seed)
    few = random.standard_normal((rows, 4)) @ random.standard_normal((4, width))
    return (few + 0.3 * random.standard_normal((rows, width))).astype(np.float32)


def moment(rows_MK: np.ndarray) -> np.ndarray:
    return rows_MK.T.astype(np.float64) @ rows_MK / len(rows_MK)


def lost(weight_KN: np.ndarray, blocks: Blocks, moment_KK: np.ndarray) -> float:
    """Mean squared error of the outputs, on inputs of this second moment."""
    error_KN = blocks.values()[: len(weight_KN)].astype(np.float64) - weight_KN
    return float((error_KN * (moment_KK @ error_KN)).sum())


def gptq_by_definition(weight_KN: np.ndarray, grid: Grid, moment_KK: np.ndarray) -> np.ndarray:
    """The values that GPTQ gives: round the loudest input, then move the others to where the outputs change least,
    found anew by least squares each time. No Cholesky factor and no panels."""
    left = weight_KN.astype(np.float64)
    scales, zeros = (np.repeat(one, grid.size, axis=0) for one in (grid.scales, grid.zeros.astype(np.float64)))
    order = np.argsort(-np.diagonal(moment_KK), kind="stable")
    for place, k in enumerate(order):
        code = np.clip(np.round(left[k] / scales[k]) + zeros[k], 0, 15)
        error, rest = left[k] - (code - zeros[k]) * scales[k], order[place + 1 :]
        left[k] -= error
        if len(rest):
            left[rest] += np.linalg.solve(moment_KK[np.ix_(rest, rest)], moment_KK[rest, k])[:, None] * error
    return left


@settings(max_examples=25, deadline=None)
@given(
    inputs=st.integers(1, 70), outputs=st.integers(1, 9), size=st.sampled_from([16, 32]), seed=st.integers(0, 2**31 - 1)
)
def test_every_weight_takes_the_nearest_of_the_sixteen_steps_of_its_block(
    inputs: int, outputs: int, size: int, seed: int
) -> None:
    weight = np.random.default_rng(seed).standard_normal((inputs, outputs)).astype(np.float32)
    blocks = in_blocks(weight, size)
    assert blocks.codes.shape == (-(-inputs // size) * size, outputs) and blocks.codes.max() <= 15
    for k in range(inputs):
        block = k // size
        steps = (np.arange(16)[:, None] - blocks.grid.zeros[block].astype(np.float32)) * blocks.grid.scales[block]
        nearest = np.abs(steps - weight[k]).min(axis=0)
        assert np.allclose(np.abs(blocks.values()[k] - weight[k]), nearest, atol=1e-5)
    assert np.array_equal(blocks.values()[inputs:], np.zeros_like(blocks.values()[inputs:])), "filled up with zeros"


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), magnitude=st.sampled_from([1e-30, 1e-3, 1.0, 1e30]))
def test_a_scale_that_takes_a_byte_is_within_a_500th_of_its_outputs_largest(seed: int, magnitude: float) -> None:
    scales = (np.random.default_rng(seed).random((7, 5)) * magnitude + magnitude / 100).astype(np.float32)
    grid = Grid(32, np.ones((7, 5), np.uint8), np.ones(5, np.float32), np.zeros((7, 5), np.uint8)).rescaled(scales)
    assert grid.levels.dtype == np.uint8 and grid.levels.min() >= 1
    assert np.all(np.abs(grid.scales - scales) <= scales.max(axis=0) * (0.5 / 255 + 1e-6))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), width=st.sampled_from([32, 96, 160]))
def test_rounding_in_panels_is_gptq_by_its_definition(seed: int, width: int) -> None:
    weight = np.random.default_rng(seed).standard_normal((width, 6)).astype(np.float32)
    moment_KK = gptq._damped(moment(correlated(width, 256, seed)))
    grid = search_grid(weight, 32, np.diagonal(moment_KK))
    codes = gptq._rounded(weight, grid, moment_KK, gptq._carry(moment_KK))
    wanted = gptq_by_definition(weight, grid, moment_KK)
    apart = np.abs(Blocks(grid, codes).values() - wanted) > 1e-4
    assert apart.any(axis=0).sum() <= 1, "one output may hang on a tie that float32 breaks otherwise"


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), width=st.sampled_from([32, 80, 160]))
def test_each_step_of_the_fit_lowers_the_error_of_the_outputs(seed: int, width: int) -> None:
    weight = np.random.default_rng(seed).standard_normal((width // 16 * 16, 8)).astype(np.float32)
    moment_KK = gptq._damped(moment(correlated(len(weight), 512, seed)))
    grid = search_grid(weight, 16, np.diagonal(moment_KK))
    single = moment_KK.astype(np.float32)
    nearest = lost(weight, Blocks(grid, grid.nearest(weight)), moment_KK)
    codes = gptq._rounded(weight, grid, moment_KK, gptq._carry(moment_KK))
    rounded = lost(weight, Blocks(grid, codes), moment_KK)
    scaled = gptq._rescaled(weight, grid, codes, single)
    rescaled = lost(weight, Blocks(scaled, codes), moment_KK)
    descended = lost(weight, Blocks(scaled, gptq._descended(weight, scaled, codes, single)), moment_KK)
    assert rounded < nearest and rescaled < 1.01 * rounded and descended <= 1.0001 * rescaled


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), width=st.sampled_from([32, 64, 80]))
def test_errors_of_rounding_are_made_up_for_on_inputs_that_go_together(seed: int, width: int) -> None:
    weight = np.random.default_rng(seed).standard_normal((width, 8)).astype(np.float32)
    rows_MK, fresh_MK = np.split(correlated(width, 1024, seed), 2)
    plain, fitted = in_blocks(weight, 32), in_blocks(weight, 32, moment(rows_MK))
    for inputs in (rows_MK, fresh_MK):
        assert lost(weight, fitted, moment(inputs)) < 0.6 * lost(weight, plain, moment(inputs))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), silent=st.booleans())
def test_inputs_that_know_nothing_of_each_other_lose_no_more_than_rounding_to_the_nearest(
    seed: int, silent: bool
) -> None:
    weight = np.random.default_rng(seed).standard_normal((64, 5)).astype(np.float32)
    moment_KK = np.diag(np.where(silent, np.arange(64) % 2, 1.0))
    assert lost(weight, in_blocks(weight, 32, moment_KK), np.eye(64)) <= 1.05 * lost(
        weight, in_blocks(weight, 32), np.eye(64)
    )


def test_outputs_are_fitted_in_parts_as_they_are_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = np.random.default_rng(3).standard_normal((48, 10)).astype(np.float32)
    moment_KK = moment(correlated(48, 256, 3))
    whole = in_blocks(weight, 16, moment_KK).values()
    monkeypatch.setattr(gptq, "_OUTPUTS", 4)
    assert np.allclose(in_blocks(weight, 16, moment_KK).values(), whole, atol=1e-5)


def test_the_file_computes_with_the_fitted_weights(tmp_path: Path) -> None:
    source = tied_decoder(tmp_path / "m.onnx", 200, 2 * BLOCK)
    fitted = fit_int4(source, texts(200))
    result = to_int4(source, tmp_path / "q.onnx", fitted=fitted)
    batch = texts(200, seed=9)[0]
    found = ort.load(result.path).run(batch)
    head = next(blocks.values() for blocks in fitted.values() if blocks.codes.shape[1] == 200)
    assert np.allclose(found["rows"], head.T[batch["ids"]], atol=1e-6), "rows of the table, from the same codes"
    wanted = found["rows"] @ fitted["layer"].values() @ head
    spread = np.abs(wanted).max()
    assert np.abs(found["logits"] - wanted).max() < 0.03 * spread, "except for sums in int8"


def test_a_table_that_is_the_output_layer_too_is_stored_once(tmp_path: Path) -> None:
    vocabulary, width = 512, 4 * BLOCK
    source = tied_decoder(tmp_path / "m.onnx", vocabulary, width)
    result = to_int4(source, tmp_path / "q.onnx")
    codes = [one for one in graph.load(result.path).graph.initializer if one.name.endswith(".int4")]
    assert sorted(len(one.raw_data) for one in codes) == [width * width // 2, vocabulary * width // 2]
    assert result.operators["GatherBlockQuantized"] == 1 and "Gather" not in result.operators
    assert result.bytes < 0.17 * source.stat().st_size
    assert set(result.changed) == {"embed", "layer", "head"}


def test_an_output_layer_that_stays_in_float_leaves_its_table_to_int8(tmp_path: Path) -> None:
    source = tied_decoder(tmp_path / "m.onnx", 2048, 2 * BLOCK)
    result = to_int4(source, tmp_path / "q.onnx", exclude=["head"])
    assert result.operators["MatMul"] == 1 and "GatherBlockQuantized" not in result.operators
    assert set(result.changed) == {"embed", "layer"} and result.kept == ("head",)


def test_nothing_to_fit_to_and_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    source = tied_decoder(tmp_path / "m.onnx", 40, BLOCK)
    with pytest.raises(InputError, match="there is none; give at least one batch"):
        fit_int4(source, [])
    model = onnx.load(source)
    table = numpy_helper.to_array(model.graph.initializer[0]).copy()
    table[3] = np.inf
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(table, "table"))
    onnx.save(model, source)
    with pytest.raises(GateFailed, match="is not finite during calibration"):
        fit_int4(source, [{"ids": np.array([[3]])}])
