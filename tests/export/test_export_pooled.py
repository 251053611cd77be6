"""A model that pools its tokens as files: plain operators, the numbers of torch, both forms of int8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from support.tiny import block_spec, images, model_of

from compress.model import Transformer
from compress.model.embeds.patch import PatchEmbedSpec
from compress.model.ffns.mlp import MlpSpec
from compress.rewrites import Calibration, parse_options, run_rewrite
from export.cpu_graph import optimize_for_cpu
from export.onnx_model import export_onnx
from export.precision.int8_dynamic import to_int8_dynamic
from export.precision.int8_static import to_int8_static
from runtime import ort

#: What TensorRT takes without a plugin, at fixed shapes; nothing sorts, searches or gathers by values.
PLAIN = {"Slice", "Reshape", "ReduceMean", "Concat"}


@pytest.fixture(scope="module")
def pooled() -> Transformer:
    block = block_spec(ffn=MlpSpec(intermediate_size=64), head_dim=16)
    embed = PatchEmbedSpec(channels=2, image_size=(16, 8), patch_size=(2, 2))
    model = model_of(block, block, block, embed=embed, hidden_size=64)
    calibration = Calibration(model, lambda: iter([images(model)]), note=lambda text: None)
    return run_rewrite(*parse_options({"use": "pool-tokens", "after": 0}), model, calibration)


@pytest.fixture(scope="module")
def file(pooled: Transformer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pooled") / "model.onnx"
    export_onnx(pooled, images(pooled, 2), ["logits"], {"pixel_values": {0: "batch"}}, path)
    return path


def error(path: Path, model: Transformer) -> float:
    """The largest error as a part of the largest logit, at three sizes of the batch."""
    session = ort.load(path, threads=1)
    worst = 0.0
    for batch in (1, 2, 5):
        inputs = images(model, batch, seed=batch)
        with torch.no_grad():
            wanted = model(inputs).numpy()
        given = session.run({"pixel_values": inputs["pixel_values"].numpy()})["logits"]
        worst = max(worst, float(np.abs(given - wanted).max() / np.abs(wanted).max()))
    return worst


def test_the_file_gives_what_torch_gives_with_plain_operators(pooled: Transformer, file: Path, tmp_path: Path) -> None:
    assert error(file, pooled) < 1e-5
    optimize_for_cpu(file, tmp_path / "fused.onnx")
    assert error(tmp_path / "fused.onnx", pooled) < 1e-5
    nodes = list(onnx.load(file).graph.node)
    maker = {name: node for node in nodes for name in node.output}
    (last,) = [node for node in nodes if node.op_type == "ReduceMean" and maker[node.input[0]].input[0] in maker][1:]
    between = {last.op_type, maker[last.input[0]].op_type}
    readers = [node for node in nodes if last.output[0] in node.input]
    between |= {node.op_type for node in readers}
    assert between <= PLAIN
    assert not {node.op_type for node in nodes} & {"TopK", "GatherElements", "GatherND", "ScatterND", "Loop", "If"}


def test_both_forms_of_int8_stay_close(pooled: Transformer, file: Path, tmp_path: Path) -> None:
    to_int8_dynamic(file, tmp_path / "dynamic.onnx")
    batches = [{"pixel_values": images(pooled, 4, seed=seed)["pixel_values"].numpy()} for seed in range(8)]
    to_int8_static(file, tmp_path / "static.onnx", batches)
    assert error(tmp_path / "dynamic.onnx", pooled) < 0.05
    assert error(tmp_path / "static.onnx", pooled) < 0.05
