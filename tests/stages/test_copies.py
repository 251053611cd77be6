"""A run's gate counts equal samples once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from compress import zoo
from compress.data import load
from compress.families import read_checkpoint
from compress.model import save
from compress.pipeline import StageContext
from compress.pipeline.events import Event, Logged
from compress.stages import verify
from compress.stages.artifacts import Answers, ShippedModels, SourceModel
from compress.tables import GateTable
from compress.tasks import get
from compress.tasks.task import DataChoice
from compress.verification.drift import Drift
from compress.verification.kinds.classes import Predictions


def test_digits_that_are_in_the_data_many_times_count_once_and_examples_keep_their_places(tmp_path: Path) -> None:
    digits = load("zoo:mnist-test", limit=60)
    images = np.concatenate([np.stack(digits.raw())[..., 0]] * 3)
    labels = np.tile(digits.labels, 3)
    folders = {name: tmp_path / name for name in ("source", "models", "reference", "candidate", "out")}
    for folder in folders.values():
        folder.mkdir()
    np.savez(tmp_path / "data.npz", x_train=255 - images, y_train=labels, x_test=images, y_test=labels)
    place = zoo.locate("zoo:vit-mnist")
    task = get("image-classification")
    save(read_checkpoint(place, task.preprocessing(place, lambda text: None)), folders["source"])
    (folders["models"] / "models.json").write_text(
        json.dumps([{"path": "model.onnx", "runtime": "onnxruntime", "precision": "int8", "loops": None}])
    )
    logits = np.eye(10, dtype=np.float32)[labels]
    moved = logits.copy()
    moved[7] = moved[67] = moved[127] = np.roll(logits[7], 1)
    Predictions(logits, labels).save(folders["reference"] / "model.onnx.npz")
    Predictions(moved, labels).save(folders["candidate"] / "model.onnx.npz")
    choice = DataChoice(source=str(tmp_path / "data.npz"), limit=None, skip_corrupt=False, seed=0)
    gate = GateTable(max_drop=20.0)
    options = verify.Options(data=choice, gate=gate, metric="top1", bound="max_drop", exit=None)
    told: list[Event] = []
    context = StageContext(folders["out"], folders["out"], options=options, emit=told.append)
    original, models = SourceModel.of(folders["source"]), ShippedModels.of(folders["models"])
    verify.verify(context, original, Answers.of(folders["reference"]), Answers.of(folders["candidate"]), models)
    drift = Drift.from_json((folders["out"] / "model.onnx.json").read_text())
    assert (drift.samples, drift.copies, drift.losses) == (60, 120, 1)
    assert [example.index for example in drift.changed] == [7]
    said = [event.message for event in told if isinstance(event, Logged)]
    assert "120 of 180 samples are copies of others: each content counts once" in said
