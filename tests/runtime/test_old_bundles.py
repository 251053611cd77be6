"""Bundles made by edgepress 0.1.0 before backends were files and graphs had names: the device side still runs them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.runtime_toys import oracle

from runtime import backends
from runtime.bundles.bundle import open_files
from runtime.session import open_bundle

FOLDER = Path(__file__).parent / "bundles"
NAMES = sorted(path.stem for path in FOLDER.glob("*.zip"))


@pytest.mark.parametrize("name", NAMES)
def test_an_old_bundle_passes_its_self_test(run_module, name):
    done = run_module("runtime.selftest", FOLDER / f"{name}.zip", "--json", "--provider", "cpu")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["passed"]


def test_an_old_bundle_for_a_jetson_tries_what_it_always_tried(run_module, tmp_path):
    bundle = open_files(FOLDER / "jetson.zip")
    assert [one.name for one in backends.order(bundle)] == ["tensorrt", *backends.ON_GPU, "cpu"]
    files = {name: backends.files_for(backends.get(name).form, bundle.manifest.models) for name in backends.names()}
    chosen = {name: [one.path for one in some] for name, some in files.items()}
    assert chosen["cpu"] == ["model.cpu.onnx"]
    assert all(chosen[name] == ["model.onnx"] for name in ("tensorrt", "cuda", "ort-tensorrt", "rtx", "openvino"))
    pixels = np.random.default_rng(4).standard_normal((2, 3, 8, 8)).astype(np.float32)
    logits = open_bundle(FOLDER / "jetson.zip", "cpu", strict=True).run({"pixel_values": pixels})["logits"]
    np.testing.assert_allclose(logits, oracle(pixels), atol=1e-4)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert run_module("runtime.run", FOLDER / "jetson.zip", tmp_path / "a.png").returncode == 0


def test_an_old_recurrent_bundle_feeds_its_state_back():
    session = open_bundle(FOLDER / "recurrent.zip")
    assert [one.name for one in backends.order(session.bundle)] == ["cpu"]
    x = np.ones((2, 3, 2), np.float32)
    first = session.run({"x": x})
    second = session.run({"x": x, "past_total": first["present_total"]})
    assert first["y"][0].tolist() == [[1, 1], [2, 2], [3, 3]] and second["y"][1].tolist() == [[4, 4], [5, 5], [6, 6]]
