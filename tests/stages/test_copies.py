"""A run's gate is the comparison of compress.verify: equal samples count once, samples that it was healed on not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from compress import zoo
from compress.data import load
from compress.data.seen import Fingerprints, to_bytes
from compress.model import save
from compress.pipeline import StageContext
from compress.pipeline.events import Event, Logged
from compress.stages import verify
from compress.stages.artifacts import Answers, CalibrationSet, Comparison, OnnxModel, ShippedModels, SourceModel
from compress.stages.outcome import judge
from compress.tables import GateTable
from compress.tasks import get, read_checkpoint
from compress.tasks.task import DataChoice
from compress.verification.kinds.classes import Predictions
from compress.verification.outcome import Status
from export.onnx_model import export_onnx


def test_copies_count_once_examples_keep_their_places_and_what_was_healed_on_is_an_error(tmp_path: Path) -> None:
    digits = load("zoo:mnist-test", limit=60)
    images = np.concatenate([np.stack(digits.raw())[..., 0]] * 3)
    labels = np.tile(digits.labels, 3)
    names = ("source", "exported", "models", "reference", "candidate", "calibration", "out")
    folders = {name: tmp_path / name for name in names}
    for folder in folders.values():
        folder.mkdir()
    np.savez(tmp_path / "data.npz", x_train=255 - images, y_train=labels, x_test=images, y_test=labels)
    place = zoo.locate("zoo:vit-mnist")
    task = get("image-classification")
    model = read_checkpoint(place, task.preprocessing(place, lambda text: None))
    save(model, folders["source"])
    graph = task.graph_inputs(model.structure, 0)
    for name in ("exported", "models"):
        export_onnx(model, graph.example, ("logits",), graph.dynamic, folders[name] / "model.onnx", opset=20)
    (folders["models"] / "models.json").write_text(
        json.dumps([{"path": "model.onnx", "runtime": "onnxruntime", "precision": "fp32", "loops": None}])
    )
    logits = np.eye(10, dtype=np.float32)[labels]
    moved = logits.copy()
    moved[7] = moved[67] = moved[127] = np.roll(logits[7], 1)
    Predictions(logits, labels).save(folders["reference"] / "model.onnx.npz")
    Predictions(moved, labels).save(folders["candidate"] / "model.onnx.npz")
    choice = DataChoice(source=str(tmp_path / "data.npz"), limit=None, skip_corrupt=False, seed=0)
    gate = GateTable(max_drop=20.0)
    options = verify.Options(data=choice, gate=gate, metric="top1", bound="max_drop", exit=None)
    calibration = CalibrationSet.of(folders["calibration"])
    told: list[Event] = []

    def judged(seen: Fingerprints) -> Comparison:
        calibration.seen.write_bytes(to_bytes(seen))
        context = StageContext(folders["out"], folders["out"], options=options, emit=told.append)
        original, models = SourceModel.of(folders["source"]), ShippedModels.of(folders["models"])
        answers = Answers.of(folders["reference"]), Answers.of(folders["candidate"])
        verify.verify(context, original, OnnxModel.of(folders["exported"]), *answers, models, calibration)
        return Comparison.of(folders["out"])

    comparison = judged([(1,)])
    drift = comparison.drifts()["model.onnx"]
    assert (drift.samples, drift.copies, drift.losses) == (60, 120, 1)
    assert [example.index for example in drift.changed] == [7]
    said = [event.message for event in told if isinstance(event, Logged)]
    assert "120 of 180 samples are copies of others: each content counts once" in said
    checks = {check.name: check.status for check in comparison.checks()}
    assert checks == dict.fromkeys(["unseen samples, model.onnx", "fresh inputs, model.onnx"], Status.PASS)
    assert judge(comparison)[0] == "pass"

    leaked = judged(digits.fingerprints()[:5])
    found = next(check for check in leaked.checks() if check.name == "unseen samples, model.onnx")
    assert found.status is Status.ERROR
    assert "are ones that the model was calibrated or healed on" in found.message
    assert judge(leaked)[0] == "error"
