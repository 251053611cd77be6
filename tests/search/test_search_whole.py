"""A whole search on a model of one layer, which takes a minute."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.jobs import ROOT, compress, digests, environment, one_line_error

from compress import zoo
from compress.data import preprocessing_from_hf
from compress.model import save
from compress.rewrites import parse_options, run_rewrite
from compress.rewrites.calibration import Calibration
from compress.tasks import read_checkpoint

pytestmark = pytest.mark.timeout(1000)
SMALL = [
    *("--target", "cpu", "--data", "zoo:mnist-test", "--max-drop", "8", "--hours", "0.001"),
    *("--set", "data.limit=300", "--set", "calibrate.samples=64", "--set", "calibrate.held_out=64"),
    *("--set", "heal.flip=false", "--set", "heal.mixup=false"),
]


def search(cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """python -m compress.search with these arguments, where importing ray fails."""
    command = [sys.executable, "-m", "compress.search", *arguments]
    (cache.parent / "ray.py").write_text("raise AssertionError('nobody asked for a cluster')")
    env = environment(cache)
    env["PYTHONPATH"] += os.pathsep + str(cache.parent)
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, check=False, timeout=900)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("search")


@pytest.fixture(scope="module")
def model(place: Path) -> Path:
    """The first layer of vit-mnist, its head and its embedding, with the config files of the source."""
    source = zoo.locate("zoo:vit-mnist")
    whole = read_checkpoint(source, preprocessing_from_hf(source))
    nothing = Calibration(whole, lambda: iter([]), lambda text: None)
    layers = list(range(1, len(whole.structure.blocks)))
    folder = place / "model"
    folder.mkdir()
    save(run_rewrite(*parse_options({"use": "drop-blocks", "layers": layers}), whole, nothing), folder)
    return folder


@pytest.fixture(scope="module")
def found(place: Path, model: Path) -> Path:
    """What a search leaves that is to save a tenth of the bytes."""
    out = place / "out"
    done = search(place / "cache", *SMALL, "--model", str(model), "--max-bytes", "110kB", "--out", str(out))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "verdict: pass" in done.stdout
    return out


def test_a_search_gives_a_bundle_a_report_a_recipe_and_the_front(found: Path) -> None:
    assert (found / "bundle" / "manifest.json").is_file() and (found / "report" / "report.html").is_file()
    front = json.loads((found / "front.json").read_text())
    (given,) = [one for one in front["gated"] if one["given"]]
    assert given["verdict"] == "pass" and given["missed"] == [] and given["confidence"] > 0.95
    assert given["file_bytes"] == (found / "bundle" / "model.onnx").stat().st_size <= 110_000
    assert given["rewrites"], "the original is larger"
    page = (found / "front.html").read_text()
    assert given["label"] in page and "http" not in page.replace("http-equiv", "")


def test_the_recipe_repeats_the_bundle_to_the_byte(found: Path, place: Path, model: Path) -> None:
    recipe = ["--recipe", str(found / "recipe.toml"), "--target", "cpu"]
    done = compress(place / "cache", *recipe, "--out", str(place / "again"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert digests(place / "again" / "bundle") == digests(found / "bundle")


def test_a_latency_that_no_model_can_have_is_named_before_anything_is_tried(
    found: Path, place: Path, model: Path
) -> None:
    done = search(place / "cache", *SMALL, "--model", str(model), "--max-latency", "1us", "--out", str(place / "none"))
    assert "is out of reach" in one_line_error(done, 2)
    assert not (place / "none" / "bundle").exists()
