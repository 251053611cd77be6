"""Every precision parses and builds in TensorRT, and its weights are there in that precision, tied ones once.

Runs where TensorRT for RTX is installed; it builds for a named GPU without having one. No engine is run here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.mini_models import HIDDEN
from support.tiny import block_spec, images, model_of

from compress.model.per_loop import PerLoopSpec
from export import graph
from export.onnx_model import export_onnx
from export.precision.fp16 import to_fp16
from export.precision.int8_static import to_int8_static
from export.scan import roll_loops
from runtime import ort
from runtime.engines.engine import build_engine
from runtime.engines.trt import TensorRT

Batches = list[dict[str, np.ndarray]]


@pytest.fixture
def weights_of(tensorrt: TensorRT) -> Callable[[Path, str], int]:
    """Builds a file and returns the bytes of the engine's weights."""

    def build(path: Path, precision: str) -> int:
        spans = {"batch": (1, 1, 4), "chunk": (1, 2, 8)}
        engine = build_engine(tensorrt, path, spans, precision=precision, capabilities=["8.6"], workspace_bytes=1 << 28)
        assert engine.data and engine.weights_bytes is not None
        return engine.weights_bytes

    return build


def matrices(path: Path) -> int:
    """Numbers in weights of two dimensions and more."""
    return sum(array.size for array in graph.weights(graph.load(path)).values() if array.ndim > 1)


@pytest.mark.parametrize("which", ["vit_file", "looped_file"])
def test_weights_are_in_the_engine_once_and_in_their_precision(
    which: str,
    weights_of: Callable[[Path, str], int],
    batches: Batches,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    source: Path = request.getfixturevalue(which)
    numbers = matrices(source)
    half = to_fp16(source, tmp_path / "half.onnx").path
    int8 = to_int8_static(source, tmp_path / "int8.onnx", batches).path
    both = to_fp16(int8, tmp_path / "both.onnx").path
    rest = 24 << 10  # gains, biases, scales, positions, padding
    for path, precision, width in ((source, "fp32", 4), (half, "fp16", 2), (int8, "int8", 1), (both, "int8", 1)):
        assert numbers * width <= weights_of(path, precision) < numbers * width + rest


def test_a_loop_with_deltas_is_in_the_engine_once_where_it_is_a_scan(
    weights_of: Callable[[Path, str], int], tmp_path: Path
) -> None:
    spec = block_spec(heads=4, kv_heads=4, head_dim=8)
    looped = spec.replace(loops=4, per_loop=PerLoopSpec(delta_rank=2))
    model = model_of(spec, looped, spec, hidden_size=32)
    export_onnx(model, images(model), ["logits"], {"pixel_values": {0: "batch"}}, tmp_path / "fp32.onnx")
    half = to_fp16(tmp_path / "fp32.onnx", tmp_path / "half.onnx").path
    roll_loops(half, tmp_path / "scan.onnx")
    stored = sum(array.nbytes for array in graph.weights(graph.load(half)).values())
    assert weights_of(tmp_path / "scan.onnx", "fp16") < 1.1 * stored
    assert weights_of(half, "fp16") > 1.7 * stored, "TensorRT copies them for each loop: docs/evidence/loops.md"


def test_a_recurrent_file_with_its_state_in_float32_builds(
    cell_file: Path, weights_of: Callable[[Path, str], int], tmp_path: Path
) -> None:
    half = to_fp16(cell_file, tmp_path / "half.onnx").path
    assert 4 * HIDDEN * HIDDEN * 2 <= weights_of(half, "fp16") < 4 * HIDDEN * HIDDEN * 2 + 4096


def test_an_embedding_table_takes_half_as_much_in_the_int8_engine(
    weights_of: Callable[[Path, str], int], tmp_path: Path
) -> None:
    from onnx import TensorProto, helper, numpy_helper

    draw, rows, width = np.random.default_rng(0), 3000, 32
    table, weight = (draw.normal(size=(size, width)).astype(np.float32) for size in (rows, width))
    nodes = [helper.make_node("Gather", ["table", "ids"], ["x"]), helper.make_node("MatMul", ["x", "weight"], ["y"])]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "lookup",
            [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "chunk"])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "chunk", width])],
            [numpy_helper.from_array(table, "table"), numpy_helper.from_array(weight, "weight")],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
    )
    graph.save(model, tmp_path / "lookup.onnx")
    ids = {"ids": draw.integers(0, rows, (4, 8))}
    path = to_int8_static(tmp_path / "lookup.onnx", tmp_path / "int8.onnx", [ids]).path
    wanted, given = (ort.load(one).run(ids)["y"] for one in (tmp_path / "lookup.onnx", path))
    assert np.sqrt(((given - wanted) ** 2).mean()) < 0.02 * wanted.std()
    assert table.size <= weights_of(path, "int8") < 2 * table.size + weight.size + 4096  # it may fold the quantizer in
