"""Linear attention exports as an RNN: one graph for prompts and single tokens, whose state does not grow, fed in any
chunks with the numbers of the whole sequence; layers with caches may stand beside it.

B batch, N tokens, V vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from compress import zoo
from compress.judging.streaming import check_streaming, stream_of
from compress.model import Transformer
from compress.model.forms.streaming import Streaming
from compress.rewrites import Calibration, parse_options, run_rewrite
from compress.tasks import read_checkpoint
from compress.verification.outcome import Status
from export.numerics import check_against
from export.onnx_model import export_onnx, read_info
from export.precision.fp16 import to_fp16
from export.precision.int8_dynamic import to_int8_dynamic
from export.precision.int8_static import to_int8_static
from runtime.engines import trt
from runtime.engines.engine import build_engine
from runtime.engines.engine_file import spans_of

STORIES = zoo.locate("zoo:stories260k")
#: What makes the model recurrent, and bytes of state of one sequence (None: it grows).
KINDS: dict[str, tuple[list[dict[str, Any]], int | None]] = {
    "t2r": ([{"use": "linear-attention", "feature": "t2r", "size": 8}], 2 * 4 * 8 * 9 * 4),
    "hybrid": ([{"use": "hybrid", "window": 16}], 2 * 4 * (4 * 16 * 9 + 2 * 4 * 16 * 8 + 16)),
    "performer": ([{"use": "linear-attention", "feature": "performer"}], 2 * 4 * 17 * 9 * 4),
    "sumformer": ([{"use": "sumformer", "summary_size": 12}], 2 * 4 * 13),
    "gated": ([{"use": "gated-linear-attention", "feature": "t2r", "size": 8}], 2 * 4 * 8 * 9 * 4),
    "delta": ([{"use": "gated-delta-rule", "feature": "hedgehog"}], 2 * 4 * 16 * 8 * 4),
    "mixed": ([{"use": "hybrid", "window": 16, "layers": [1]}], None),
}
#: Operators that TensorRT's parser has had for long.
PLAIN = {
    *("Abs", "Add", "And", "Cast", "Clip", "Concat", "Cos", "Div", "Elu", "Equal", "Exp", "Expand", "Gather", "Gelu"),
    *("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "MatMul", "Max", "Mul", "Neg", "Not", "Pow", "Range"),
    *("Reciprocal", "ReduceMax", "ReduceMean", "ReduceSum", "Relu", "Reshape", "Shape", "Sigmoid", "Sin", "Slice"),
    *("Softmax", "Softplus", "Split", "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where"),
}


def stories_batch(seed: int, rows: int = 2, tokens: int = 40) -> Tensor:
    return torch.randint(3, 512, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def recurrent(tables: list[dict[str, Any]]) -> Transformer:
    """The first two layers of a trained model, rewritten."""
    model = original = read_checkpoint(STORIES, {})
    tables = [{"use": "drop-blocks", "layers": [2, 3, 4]}, *tables]
    calibration = Calibration(original, lambda: iter([{"input_ids": stories_batch(0)}]), lambda note: None)
    for table in tables:
        model = run_rewrite(*parse_options(table), model, calibration)
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Streaming, Path]]:
    made: dict[str, tuple[Streaming, Path]] = {}

    def export(kind: str) -> tuple[Streaming, Path]:
        if kind not in made:
            streaming = Streaming(recurrent(KINDS[kind][0]))
            path = tmp_path_factory.mktemp(kind) / "model.onnx"
            example = streaming.example(2, 4, 3, torch.Generator().manual_seed(0))
            export_onnx(streaming, example, streaming.outputs, streaming.dynamic, path)
            made[kind] = streaming, path
        return made[kind]

    return export


@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_gives_torchs_numbers_at_any_batch_and_chunk(kind: str, exported: Any) -> None:
    streaming, path = exported(kind)
    generator = torch.Generator().manual_seed(1)
    assert check_against(streaming, path, [streaming.example(*sizes, generator) for sizes in ((1, 1, 0), (3, 7, 5))])


@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_has_plain_operators_and_fp32_states(kind: str, exported: Any) -> None:
    _, path = exported(kind)
    counts = Counter(node.op_type for node in onnx.load(path).graph.node)
    assert not set(counts) - PLAIN - ({"Scan"} if kind == "delta" else set())  # no parallel form without a solver
    assert all(one.dtype == "float32" for one in read_info(path).inputs if one.name.startswith("past"))


@pytest.mark.parametrize("kind", ["hybrid", "performer"])
def test_int8_leaves_feature_maps_and_states_alone(kind: str, exported: Any, tmp_path: Path) -> None:
    _, path = exported(kind)
    to_int8_dynamic(path, tmp_path / "int8.onnx")
    ids_N = stories_batch(4, rows=1, tokens=200)[0].numpy()
    exact, given = (stream_of(each).outputs(ids_N)[0] for each in (path, tmp_path / "int8.onnx"))
    left = {node.name for node in onnx.load(tmp_path / "int8.onnx").graph.node if node.op_type == "MatMul"}
    assert any("feature" in name for name in left)
    assert not any("values" in name for name in left)
    assert np.abs(given - exact).mean() < 0.1 * np.abs(exact).mean()
    assert (given.argmax(axis=-1) == exact.argmax(axis=-1)).mean() > 0.8


def test_sums_over_a_chunk_do_not_overflow_in_fp16(exported: Any, tmp_path: Path) -> None:
    _, path = exported("t2r")
    model = onnx.load(path)
    for one in model.graph.initializer:
        if "feature.weight" in one.name:
            one.CopyFrom(onnx.numpy_helper.from_array(60 * onnx.numpy_helper.to_array(one), one.name))
    onnx.save(model, tmp_path / "large.onnx")
    to_fp16(tmp_path / "large.onnx", tmp_path / "half.onnx")
    ids_N = stories_batch(6, rows=1, tokens=400)[0].numpy()
    exact, given = (stream_of(each).outputs(ids_N)[0] for each in (tmp_path / "large.onnx", tmp_path / "half.onnx"))
    assert np.linalg.norm(given - exact) < 0.01 * np.linalg.norm(exact)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_streaming_is_the_whole_at_every_length_and_chunking(kind: str, exported: Any) -> None:
    streaming, path = exported(kind)
    random = np.random.default_rng(0)
    for length in (1, 7, 64, 333, 1000):
        ids_N = random.integers(3, 512, length)
        whole = streaming.model({"input_ids": torch.from_numpy(ids_N)[None]})[0].numpy()
        stream = stream_of(path)
        cuts = np.sort(random.integers(0, length, 4)) if length > 64 else np.arange(1, length)
        parts = [part for part in np.split(ids_N, cuts) if len(part)]
        given = np.concatenate([stream.outputs(part)[0] for part in parts])
        np.testing.assert_allclose(given, whole, atol=2e-3, rtol=1e-3)
        states = KINDS[kind][1]
        assert stream.state_bytes == states or states is None
        stream.reset()
        np.testing.assert_allclose(stream.prefill(ids_N)[0], whole[-1], atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", ["t2r", "mixed"])
def test_a_file_whose_answers_depend_on_the_chunks_fails_its_check(kind: str, exported: Any, tmp_path: Path) -> None:
    _, path = exported(kind)
    ids_N = stories_batch(5, rows=1, tokens=100)[0].numpy()
    found = check_streaming(path, ids_N, "fp32", 512)
    assert found.status is Status.PASS and "sequences of 1, 7, 64, 333, 512 tokens" in found.message
    model = onnx.load(path)
    for state in [one.name for one in model.graph.output if one.name.startswith("present_")]:
        for node in model.graph.node:
            node.output[:] = [f"unused_{name}" if name == state else name for name in node.output]
        past = state.replace("present_", "past_")
        model.graph.node.append(onnx.helper.make_node("Identity", [past], [state]))  # it remembers nothing
    onnx.save(model, tmp_path / "model.onnx")
    broken = check_streaming(tmp_path / "model.onnx", ids_N, "fp32", 512)
    assert broken.status is Status.FAIL and "allowed 0.001" in broken.message


@pytest.mark.parametrize("kind", ["hybrid", "mixed"])
def test_rows_may_start_late_and_be_taken_again(kind: str, exported: Any) -> None:
    _, path = exported(kind)
    ids_BN = stories_batch(2, rows=2, tokens=30).numpy()
    mask_BN = np.ones_like(ids_BN)
    mask_BN[1, :11] = 0
    both = stream_of(path, batch=2)
    logits_BV = both.prefill(ids_BN, mask_BN)
    alone = stream_of(path)
    np.testing.assert_allclose(alone.prefill(ids_BN[1, 11:])[0], logits_BV[1], atol=1e-3, rtol=1e-3)
    beams = both.select([1, 1, 0]).step([5, 6, 5])
    np.testing.assert_allclose(beams[0], alone.step(5)[0], atol=1e-3, rtol=1e-3)
    np.testing.assert_allclose(both.step([5, 5])[0], beams[2], atol=1e-3, rtol=1e-3)


def test_a_thousand_steps_neither_grow_nor_drift(exported: Any) -> None:
    _, path = exported("hybrid")
    ids_N = stories_batch(3, rows=1, tokens=1000)[0].numpy()
    steps, chunks = stream_of(path), stream_of(path, chunk=128)
    for token in ids_N:
        last = steps.step(token)
    np.testing.assert_allclose(last, chunks.prefill(ids_N), atol=1e-3, rtol=1e-3)
    assert steps.state_bytes == KINDS["hybrid"][1]
    resumed = stream_of(path)
    resumed.load(steps.save())
    assert np.array_equal(resumed.step(7), steps.step(7))


@pytest.mark.parametrize("kind", ["delta", "mixed"])
def test_tensorrt_builds_an_engine_of_the_graph(kind: str, exported: Any, tensorrt: trt.TensorRT) -> None:
    profile = {"batch": (1, 1, 4), "chunk": (1, 1, 64), "past": (0, 16, 64), "total": (1, 17, 128)}
    spans = spans_of(profile, recurrent=True)
    engine = build_engine(
        tensorrt, exported(kind)[1], spans, precision="fp32", capabilities=["8.6"], workspace_bytes=1 << 28
    )
    states = {name: shapes for name, shapes in engine.profile.items() if name.startswith("past")}
    assert engine.data and states and all(shape[0] == 1 for shapes in states.values() for shape in shapes)


def test_quantized_layers_beside_a_state_compute_in_half_in_the_engine(
    exported: Any, tensorrt: trt.TensorRT, tmp_path: Path
) -> None:
    streaming, path = exported("t2r")
    generator = torch.Generator().manual_seed(7)
    examples = [streaming.example(2, 20, 5, generator) for _ in range(4)]
    batches = [{name: one.numpy() for name, one in example.items()} for example in examples]
    int8 = to_int8_static(path, tmp_path / "int8.onnx", batches).path
    both = to_fp16(int8, tmp_path / "both.onnx").path
    ids_N = stories_batch(4, rows=1, tokens=200)[0].numpy()
    wanted, given = (stream_of(each).outputs(ids_N)[0] for each in (int8, both))
    assert np.abs(given - wanted).mean() < 0.05 * np.abs(wanted).mean()
    spans = spans_of({"batch": (1, 1, 1), "chunk": (1, 1, 64)}, recurrent=True)
    layers = build_engine(tensorrt, both, spans, precision="int8", capabilities=["8.6"], workspace_bytes=1 << 28).layers
    assert layers.quantized == 2 * 7 + 1 <= layers.results["float16"], "seven layers a block, and the head"
    assert layers.results["float32"] > 0, "the state's products"
