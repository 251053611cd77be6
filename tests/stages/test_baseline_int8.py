"""The int8 form that edgepress is held against is the original at its best."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx

from compress import zoo
from compress.model import save
from compress.pipeline import StageContext
from compress.stages import answers, baseline_int8, export
from compress.stages.artifacts import Answers, CalibrationSet, ModelArtifact, OnnxModel, ShippedModels, SourceModel
from compress.tasks import get, read_checkpoint
from compress.tasks.task import DataChoice
from compress.verification.metrics import METRICS


def test_the_original_gets_the_exact_forms_and_the_quantizer_of_what_ships(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("source", "calibration", "files", "answers", "graph", "again")}
    for folder in folders.values():
        folder.mkdir()
    place, task = zoo.locate("zoo:vit-mnist"), get("image-classification")
    save(read_checkpoint(place, task.preprocessing(place, lambda text: None)), folders["source"])
    (folders["calibration"] / "calibration.json").write_text(json.dumps({"fit": [*range(16)], "held_out": [16, 17]}))
    choice = DataChoice("zoo:mnist-test", 200, False, 0)
    original = SourceModel.of(folders["source"])
    context = StageContext(folders["files"], tmp_path, options=baseline_int8.Options(opset=20, data=choice))
    baseline_int8.quantize_original(context, original, CalibrationSet.of(folders["calibration"]))

    models = ShippedModels.of(folders["files"])
    assert [file.path for file in models.entries()] == ["dynamic.onnx", "static.onnx"]
    fused, static = (onnx.load(folders["files"] / name) for name in ("dynamic.onnx", "static.onnx"))
    kinds = Counter(node.op_type for node in fused.graph.node)
    assert kinds["Attention"] + kinds["QAttention"] == 5, "the last block is trimmed to the token that the head reads"
    stored = {one.name: onnx.numpy_helper.to_array(one) for one in static.graph.initializer}
    assert any(one.dtype == np.int8 and one.ndim == 2 for one in stored.values())
    assert not any(one.dtype == np.uint8 for one in stored.values()), "symmetric, as what ships"

    given = StageContext(folders["graph"], tmp_path, options=export.Options(opset=20, data=choice, loops=()))
    export.export_model(given, original, CalibrationSet.of(folders["calibration"]), ModelArtifact.of(folders["source"]))
    again = StageContext(folders["again"], tmp_path, options=baseline_int8.Options(opset=20, data=choice))
    graph = OnnxModel.of(folders["graph"])
    baseline_int8.quantize_original(again, original, CalibrationSet.of(folders["calibration"]), graph)
    for name in ("dynamic.onnx", "static.onnx"):
        assert (folders["again"] / name).read_bytes() == (folders["files"] / name).read_bytes(), "of a graph at hand"

    asked = StageContext(folders["answers"], tmp_path, options=answers.Options(data=choice))
    answers.answer_shipped(asked, original, models)
    for name in ("dynamic.onnx", "static.onnx"):
        assert METRICS["top1"].value(Answers.of(folders["answers"]).load(name)) > 94
    assert np.isfinite(Answers.of(folders["answers"]).load("static.onnx").arrays()["logits"]).all()
