"""The score of the files that ship: on held-out calibration samples, and only when it is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import targets
from compress import zoo
from compress.data import load as load_data
from compress.data import preprocessing_from_hf
from compress.model import save
from compress.pipeline import Cache, Runner, StageContext
from compress.recipe import parse
from compress.stages import score
from compress.stages.artifacts import CalibrationSet, Scores, ShippedModels, SourceModel
from compress.stages.graph import Job, build_graph
from compress.tasks import read_checkpoint
from compress.tasks.task import DataChoice
from runtime import ort

MNIST = zoo.locate("zoo:vit-mnist")
#: Logits that are the first ten pixels of a row through the middle of the digit.
PIXELS = """<ir_version: 10, opset_import: ["": 20]>
    pixels (float[batch, 1, 28, 28] pixel_values) => (float[batch, 10] logits)
    <int64[2] flat = {0, -1}, int64[1] first = {400}, int64[1] last = {410}, int64[1] axis = {1}>
    { rows = Reshape (pixel_values, flat)  logits = Slice (rows, first, last, axis) }"""


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    made = {name: tmp_path / name for name in ("source", "calibration", "models", "scores")}
    for folder in made.values():
        folder.mkdir()
    save(read_checkpoint(MNIST, preprocessing_from_hf(MNIST)), made["source"])
    chosen = {"fit": [0, 1, 2], "held_out": list(range(3, 43))}
    (made["calibration"] / "calibration.json").write_text(json.dumps(chosen))
    onnx.save(onnx.parser.parse_model(PIXELS), made["models"] / "model.onnx")
    rows = [{"path": "model.onnx", "runtime": "onnxruntime", "precision": "fp32", "bytes": 7}]
    (made["models"] / "models.json").write_text(json.dumps(rows))
    return made


def test_it_is_the_share_of_held_out_samples_that_a_file_answers_as_the_original(folders: dict[str, Path]) -> None:
    options: Any = score.Options(data=DataChoice("zoo:mnist-test", None, False, 0))
    original = SourceModel.of(folders["source"])
    score.score(
        StageContext(folders["scores"], folders["scores"], options),
        original,
        CalibrationSet.of(folders["calibration"]),
        ShippedModels.of(folders["models"]),
    )
    (found,) = Scores.of(folders["scores"]).load()
    data = load_data("zoo:mnist-test", part="healing", seed=0)
    batches = data.batches(original.structure().preprocessing, batch_size=40, indices=np.arange(3, 43))
    pixels = next(iter(batches))[0]
    ours = ort.load(folders["models"] / "model.onnx").run({"pixel_values": pixels})["logits"].argmax(axis=1)
    import torch

    with torch.no_grad():
        theirs = original.load()({"pixel_values": torch.from_numpy(pixels)}).numpy().argmax(axis=1)
    assert 0 < (ours == theirs).mean() < 1
    assert found.agreement == pytest.approx((ours == theirs).mean())
    assert (found.path, found.samples, found.bytes) == ("model.onnx", 40, 7) and found.drift > 0


def test_a_run_measures_it_only_when_asked_and_opens_no_evaluation_sample_for_it(tmp_path: Path) -> None:
    job = Job(parse({"model": {"source": "zoo:vit-mnist"}}, "test"), "test", targets.load("cpu"), 0, tmp_path / "memo")
    graph = build_graph(job)
    whole = [row.name for row in Runner(graph, Cache(tmp_path)).plan()]
    asked = [row.name for row in Runner(graph, Cache(tmp_path)).plan(until="score")]
    assert "score" not in whole and whole[-1] == "report"
    assert asked == ["source", "calibrate", "export", "precision", "score"]
    by_name = {stage.name: stage for stage in graph.stages}
    assert all("evaluation" not in by_name[name].sources for name in asked)
