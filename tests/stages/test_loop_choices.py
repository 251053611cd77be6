"""A looped model that ships with other numbers of loops: from the recipe to the device's command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from support import tiny_texts
from support.jobs import ROOT, environment

import targets
from compress.pipeline import Cache, Runner
from compress.recipe import parse
from compress.stages.graph import Job, build_graph, changes_of
from export.apart import stored_bytes
from export.sharing import assert_shared_once
from targets.errors import InputError

RECIPE = {
    "model": {"source": "zoo:vit-mnist"},
    "data": {"limit": 200},
    "calibrate": {"samples": 64, "held_out": 16},
    "rewrite": [{"use": "fold-norm"}, {"use": "tie-layers", "delta_rank": 24}],
    "heal": {"steps": 10, "batch_size": 16, "flip": False, "eval_every": 10, "loops": [3]},
    "loops": {"offer": [1, 3], "exit": 0.9},
    "precision": {"mode": "int8"},
    "gate": {"max_drop": 10},
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def made(cache: Path, recipe: dict[str, object], target: str, stage: str) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEPRESS_CACHE", str(cache))
        job = Job(parse(recipe, "test"), "test", targets.load(target), 0, cache / "digests.json")
        return Runner(build_graph(job), Cache()).run(until=stage)[stage].path


@pytest.fixture(scope="module")
def bundle(cache: Path) -> Path:
    return made(cache, RECIPE, "cpu", "bundle")


def test_what_passes_is_offered_what_fails_is_not_and_weights_are_stored_once(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    models = {model["path"]: model["loops"] for model in manifest["models"]}
    assert models == {"model.onnx": 4, "model.loops-3.onnx": 3}, "one loop of four should lose too much"
    assert manifest["drift"].keys() == {"model.onnx", "model.loops-3.onnx", "exit at 0.9"}
    assert all(one["status"] == "pass" for one in manifest["drift"].values())
    assert manifest["exit"] == {"probability": 0.9}
    assert "model.onnx.data" in manifest["files"]
    own = (bundle / "model.loops-3.onnx").stat().st_size
    assert stored_bytes(bundle / "model.loops-3.onnx") > 3 * own, "its weights are those of the whole model"
    for path in models:
        assert_shared_once(bundle / path)


def test_the_device_chooses_a_number_of_loops_or_exits_early(bundle: Path, tmp_path: Path) -> None:
    with np.load(ROOT / "compress" / "zoo" / "mnist" / "test.npz") as archive:
        Image.fromarray(archive["images"][0]).save(tmp_path / "digit.png")
        label = str(archive["labels"][0])
    for options in ([], ["--loops", "3"], ["--loops", "4"], ["--exit"]):
        done = runtime(tmp_path, "run", bundle, tmp_path / "digit.png", *options)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split()[1] == label
    done = runtime(tmp_path, "selftest", bundle, "--loops", "3")
    assert done.returncode == 0 and "model.loops-3.onnx" in done.stderr
    done = runtime(tmp_path, "run", bundle, tmp_path / "digit.png", "--loops", "1")
    assert done.returncode == 2 and "cannot run 1 loops; it offers 3, 4" in done.stderr


def test_a_scan_is_made_of_what_the_runtime_can_run(cache: Path) -> None:
    recipe = {**RECIPE, "loops": {}, "precision": {"mode": "int8", "loops": "scan"}}
    folder = made(cache, recipe, "jetson", "precision")
    found = {}
    for path in folder.glob("*.onnx"):
        nodes = [node.op_type for node in onnx.load(path).graph.node]
        found[path.name] = ("Scan" in nodes, "DequantizeLinear" in nodes)
        assert_shared_once(path)
    assert found == {"model.onnx": (False, True), "model.cpu.onnx": (True, False)}


def runtime(cache: Path, module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"runtime.{module}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment(cache), cwd=ROOT, check=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loops": {"exit": 0.9}}, "exit needs the numbers of loops to exit after"),
        ({"loops": {"offer": [0]}}, "greater than 0"),
        ({"precision": {"loops": "scan"}}, "loops.offer shares weights between unrolled files"),
    ],
)
def test_choices_that_do_not_fit_are_refused_before_anything_runs(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse({**RECIPE, **changes}, "test")


@pytest.mark.parametrize(("loops", "changes"), [([], []), ([3], ["heal"])])
def test_a_model_that_is_not_rewritten_is_healed_only_for_other_numbers_of_loops(
    loops: list[int], changes: list[str], tmp_path: Path
) -> None:
    recipe = parse({**RECIPE, "rewrite": [], "heal": {"loops": loops}}, "test")
    job = Job(recipe, "test", targets.load("cpu"), 0, tmp_path / "d.json")
    assert [stage.name for stage in changes_of(job)] == changes


def test_models_that_cannot_have_them_are_refused_before_anything_runs(tmp_path: Path) -> None:
    folder = tiny_texts.model_folder(tmp_path / "embedding", "embedding")
    tiny_texts.pairs(tmp_path / "pairs.tsv", 300)
    vectors = {"model": {"source": str(folder)}, "data": {"source": str(tmp_path / "pairs.tsv")}}
    decoder = {"model": {"source": "zoo:stories260k"}}
    for source, message in ((decoder, r"loops\.offer is refused for causal-lm"), (vectors, "exit needs a classifier")):
        with pytest.raises(InputError, match=message):
            build_graph(Job(parse({**RECIPE, **source}, "test"), "test", targets.load("cpu"), 0, tmp_path / "d.json"))
