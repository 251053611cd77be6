"""Damage that costs no accuracy, and is found all the same."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from compress import model as models
from compress import zoo
from compress.data import preprocessing_from_hf
from compress.judging.soundness import dead_blocks
from compress.tasks import read_checkpoint
from compress.verification.outcome import Status
from compress.verification.report_data import ReportData
from compress.verify import Options, evaluate

ROOT = Path(__file__).parents[2]
SAMPLES = 450


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("data") / "d.npz"
    with np.load(ROOT / "compress" / "zoo" / "mnist" / "test.npz") as file:
        names = np.array([str(k) for k in range(10)])
        chosen = np.linspace(0, len(file["labels"]) - 1, SAMPLES).astype(int)
        np.savez(path, images=file["images"][chosen], labels=file["labels"][chosen], class_names=names)
    return str(path)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from compress import tasks
    from export.onnx_model import export_onnx

    model = original()
    graph = tasks.get("image-classification").graph_inputs(model.structure, seed=0)
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    export_onnx(model, graph.example, ("logits",), graph.dynamic, path, opset=20)
    return path


def original() -> models.Transformer:
    folder = zoo.locate("zoo:vit-mnist")
    return read_checkpoint(folder, preprocessing_from_hf(folder))


def report(candidate: Path, data: str) -> ReportData:
    return evaluate(Options("zoo:vit-mnist", str(candidate), data, "all", max_drop=5.0)).report


def errors(found: ReportData) -> dict[str, str]:
    return {check.name: check.message for check in found.checks if check.status is Status.ERROR}


def quantized(source: Path, path: Path, factor: float) -> Path:
    """Q/DQ in front of one block's output projection, which fits where the factor is 1."""
    from export.precision.int8_static import activation_ranges, quantize_static

    with np.load(ROOT / "compress" / "zoo" / "mnist" / "test.npz") as file:
        pixels = file["images"][::20, None].astype(np.float32) / 255
    mean, std = (original().structure.preprocessing[name][0] for name in ("mean", "std"))
    quantize_static(source, path, activation_ranges(source, [{"pixel_values": (pixels - mean) / std}]))
    model = onnx.load(path)
    name = [node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"][9]
    tensor = next(one for one in model.graph.initializer if one.name == name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), name))
    onnx.save(model, path)
    return path


def test_a_scale_that_fits_passes_and_one_ten_times_too_large_does_not(
    exported: Path, data: str, tmp_path: Path
) -> None:
    fine = report(quantized(exported, tmp_path / "fine.onnx", 1.0), data)
    assert fine.verdict is Status.PASS and "quantization ranges" in {check.name for check in fine.checks}
    stretched = report(quantized(exported, tmp_path / "stretched.onnx", 10.0), data)
    assert stretched.drift is not None and stretched.drift.status is Status.PASS
    assert stretched.verdict is Status.ERROR
    assert "the scales of 1 of" in errors(stretched)["quantization ranges"]


def test_a_block_of_zeros_is_found_in_folders_and_in_onnx_files(exported: Path, data: str, tmp_path: Path) -> None:
    model = original()
    for parameter in model.block(3).parameters():
        parameter.data.zero_()
    models.save(model, tmp_path / "zeroed")
    assert "block 3" in errors(report(tmp_path / "zeroed", data))["weights"]
    graph = onnx.load(exported)
    for one in graph.graph.initializer:
        if one.name.startswith("blocks.2.") and len(one.dims) > 1:
            one.CopyFrom(numpy_helper.from_array(0 * numpy_helper.to_array(one), one.name))
    onnx.save(graph, tmp_path / "zeroed.onnx")
    assert "block 2 of zeroed.onnx" in errors(report(tmp_path / "zeroed.onnx", data))["weights"]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.booleans(), min_size=1, max_size=4), min_size=1, max_size=5),
    st.sampled_from(("blocks", "encoder.layer", "h")),
)
def test_exactly_the_blocks_without_any_weight_are_dead(blocks: list[list[bool]], prefix: str) -> None:
    weights = [
        (f"{prefix}.{number}.m{place}.weight", np.full((2, 3), float(lives)))
        for number, matrices in enumerate(blocks)
        for place, lives in enumerate(matrices)
    ]
    weights += [(f"{prefix}.{number}.bias", np.ones(3)) for number in range(len(blocks))] + [("head", np.zeros((2, 2)))]
    dead = [f"block {number}" for number, matrices in enumerate(blocks) if not any(matrices)]
    assert dead_blocks("", weights) == dead
