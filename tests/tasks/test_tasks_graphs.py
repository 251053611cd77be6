"""A model that a device runs in several graphs is known to its task alone: a classifier is cut in front of its head."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx.utils import Extractor
from support.jobs import asked, shipped

from compress import tasks
from compress.tasks.task import Task
from runtime import ort
from runtime.selftest import main as selftest
from runtime.session import open_graphs

if TYPE_CHECKING:
    from compress.tasks.task import Arrays

INPUT, OUTPUT, MIDDLE = "pixel_values", "logits", "pooled"


def halves(self: Task, path: Path) -> dict[str, Path]:
    """The body as far as the head's product, and the head."""
    model = onnx.load(path)
    last = next(node for node in reversed(model.graph.node) if node.op_type in ("Gemm", "MatMul", "FusedMatMul"))
    pooled = last.input[0]
    for node in model.graph.node:
        node.input[:] = [MIDDLE if name == pooled else name for name in node.input]
        node.output[:] = [MIDDLE if name == pooled else name for name in node.output]
    [size] = [one.dims[0] for one in model.graph.initializer if one.name == last.input[1]]
    known = onnx.helper.make_tensor_value_info(MIDDLE, onnx.TensorProto.FLOAT, ["batch", size])
    del model.graph.value_info[:]
    model.graph.value_info.append(known)
    parts = {"body": ([INPUT], [MIDDLE]), "head": ([MIDDLE], [OUTPUT])}
    files = {name: path.with_name(path.name.replace("model", name, 1)) for name in parts}
    for name, ends in parts.items():
        onnx.save(Extractor(model).extract_model(*ends), files[name])
    return {"model": path, **files}


def golden_inputs(self: Task, graphs: Mapping[str, Path], inputs: Arrays) -> dict[str, Arrays]:
    return {"model": inputs, "body": inputs, "head": ort.load(graphs["body"], 1).run(inputs)}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        kind = type(tasks.get("image-classification"))
        patch.setattr(kind, "graphs", halves)
        patch.setattr(kind, "golden_inputs", golden_inputs)
        few = ("data.limit=60", "gate.min_samples=10", "calibrate.samples=32", "calibrate.held_out=16")
        root = tmp_path_factory.mktemp("halves")
        return shipped("zoo:vit-mnist", "zoo:mnist-test", root, *few, max_drop=60)


def test_the_graphs_that_a_task_makes_ship_under_their_names(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert list(manifest["graphs"]) == ["model", "body", "head"]
    assert {one["path"]: one.get("graph", "model") for one in manifest["models"]} == {
        "model.onnx": "model",
        "body.onnx": "body",
        "head.onnx": "head",
    }


def test_they_open_by_their_names_and_give_the_whole_together(bundle: Path) -> None:
    sessions = open_graphs(bundle)
    pixels = np.random.default_rng(0).standard_normal((3, 1, 28, 28)).astype(np.float32)
    pooled = sessions["body"].run({INPUT: pixels})
    whole = sessions["model"].run({INPUT: pixels})[OUTPUT]
    np.testing.assert_allclose(sessions["head"].run(pooled)[OUTPUT], whole, atol=1e-5)


def test_the_device_checks_every_graph_and_asks_the_whole(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    monkeypatch.setattr("sys.argv", ["selftest", str(bundle), "--json"])
    assert selftest() == 0
    assert list(json.loads(capsys.readouterr().out)["graphs"]) == ["model", "body", "head"]
    Image.new("L", (28, 28)).save(tmp_path / "black.png")
    assert len(asked(bundle, str(tmp_path / "black.png"))) == 1
