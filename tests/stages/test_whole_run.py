"""The main job from checkpoint to bundle, as a user runs it."""

from __future__ import annotations

import importlib.util
import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from support.device import call, commands, make_environment
from support.jobs import ROOT, SMALL, compress, digests, environment, one_line_error

import targets
from compress.pipeline import Cache, Runner
from compress.recipe import ModelTable, load
from compress.stages.artifacts import Engines
from compress.stages.graph import Job, build_graph
from targets.errors import InputError


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def finished(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    out = tmp_path_factory.mktemp("run") / "out"
    done = compress(cache, *SMALL, "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    return out, done


def test_a_run_ends_with_the_bundle_and_the_verdict(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    out, done = finished
    assert done.stdout.splitlines()[-2].split() == ["bundle:", str(out / "bundle")]
    assert done.stdout.splitlines()[-1].startswith("verdict: pass")


def test_the_bundle_holds_what_the_contract_names(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    bundle = finished[0] / "bundle"
    manifest = json.loads((bundle / "manifest.json").read_text())
    wanted = {"schema", "edgepress", "task", "target", "inputs", "outputs", "state", "preprocessing", "labels"}
    assert wanted | {"drift", "files"} <= manifest.keys()
    assert manifest["inputs"] == [{"name": "pixel_values", "dtype": "float32", "shape": ["batch", 1, 28, 28]}]
    assert manifest["verdict"] == "pass"
    shipped = {name for name in digests(bundle) if not name.startswith("manifest.json")}
    assert shipped == set(manifest["files"])
    assert {"model.onnx", "model.cpu.onnx", "golden.npz", "healing-samples.npy", "inputs.json"} <= shipped
    assert not {"report.html", "report.json", "report.md", "junit.xml"} & shipped, "reports show the user's samples"
    assert all(entry["sha256"] == digests(bundle)[name] for name, entry in manifest["files"].items())


def test_the_reports_say_the_same_numbers_as_the_manifest(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    out, _ = finished
    report = json.loads((out / "report" / "report.json").read_text())
    names = [row["name"] for row in report["variants"]]
    assert names[0] == "original fp32" and "model.onnx" in names and "original int8 dynamic" in names
    assert all(row["latency_ms"] > 0 and row["threads"] >= 1 for row in report["variants"])
    steps = [row["name"] for row in report["stages"]]
    assert steps[-3:] == ["export", "model.onnx", "model.cpu.onnx"] and "heal" in steps
    assert all(row["drop"] is not None and row["status"] for row in report["stages"])
    assert [row["name"] for row in report["blocks"]] == ["embedding", *(f"block {k}" for k in range(6))]
    assert report["verdict"] == "pass"


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of the processes that `work` waits for: others may use the machine as well."""
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    work()
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime


def test_a_second_run_does_no_work_and_costs_five_seconds_or_three_imports_of_torch(
    cache: Path, finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    runs: list[subprocess.CompletedProcess[str]] = []
    seconds = cpu_seconds(lambda: runs.append(compress(cache, *SMALL, "--out", str(tmp_path / "again"), "--json")))
    (done,) = runs
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verdict"] == "pass"
    assert digests(tmp_path / "again" / "bundle") == digests(finished[0] / "bundle")
    events = [json.loads(line) for line in (tmp_path / "again" / "log.jsonl").read_text().splitlines()]
    assert not [event for event in events if event["event"] == "StageStarted"]
    bare = cpu_seconds(lambda: subprocess.run([sys.executable, "-c", "import torch"], check=True))
    assert seconds < max(5, 3 * bare)


def test_the_plan_shows_what_is_cached_and_runs_nothing(
    cache: Path, finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = compress(cache, *SMALL, "--dry-run", "--json", "--out", str(tmp_path / "none"))
    rows = json.loads(done.stdout)["stages"]
    assert all(row["cached"] for row in rows) and len(rows) > 12
    fresh = json.loads(compress(tmp_path / "empty", *SMALL, "--dry-run", "--json").stdout)["stages"]
    assert not any(row["cached"] for row in fresh)
    assert not (tmp_path / "none").exists()
    explained = compress(cache, *SMALL, "--explain")
    assert explained.returncode == 0 and "why" in explained.stdout


def test_the_device_side_runs_the_bundle_on_a_picture(
    finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    with np.load(ROOT / "compress" / "zoo" / "mnist" / "test.npz") as data:
        image, label = data["images"][0], int(data["labels"][0])
    Image.fromarray(image).save(tmp_path / "digit.png")
    command = [sys.executable, "-m", "runtime.run", str(finished[0] / "bundle"), str(tmp_path / "digit.png"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert f'"{label}"' in done.stdout
    command = [sys.executable, "-m", "runtime.selftest", str(finished[0] / "bundle")]
    assert subprocess.run(command, capture_output=True, cwd=ROOT, check=False).returncode == 0


def artifact(cache: Path, monkeypatch: pytest.MonkeyPatch, stage: str, target: str, *settings: str) -> Path:
    """What a stage makes in a small run for a target; stages that `finished` ran come from the cache."""
    monkeypatch.setenv("EDGEPRESS_CACHE", str(cache))
    recipe = load("quick", [*(text for flag, text in pairwise(SMALL) if flag == "--set"), *settings])
    recipe = recipe.model_copy(update={"model": ModelTable(source="zoo:vit-mnist")})
    job = Job(recipe, "quick", targets.load(target), 0, cache / "digests.json")
    return Runner(build_graph(job), Cache()).run(until=stage)[stage].path


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx_bindings") is None,
    reason="TensorRT for RTX, which has wheels for Linux on x86-64 alone, is not installed",
)
def test_a_target_with_engines_gets_them_in_its_precisions_for_its_gpus(
    cache: Path, finished: tuple[Path, subprocess.CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundle alone: the other stages were seen to run, and this leaves out the timing."""
    bundle = artifact(cache, monkeypatch, "bundle", "rtx")
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    records = {name: json.loads((bundle / name).read_text()) for name in files if re.match(r"engines/.*\.json", name)}
    assert {record["identity"]["precision"] for record in records.values()} == {"fp16", "int8"}
    for name, record in records.items():
        (model,) = record["identity"]["onnx"]
        assert record["identity"]["onnx"][model] == files[model]["sha256"]
        assert record["identity"]["compute_capabilities"] == ["8.6", "8.9"]
        assert record["sha256"] == files[name.replace(".json", ".engine")]["sha256"]
        assert record["weights_bytes"] < 1.1 * files[model]["bytes"]
        assert (record["quantized"] > 20) == (record["identity"]["precision"] == "int8")
    (engines, *_) = Engines.of(artifact(cache, monkeypatch, "engine", "rtx")).lines()
    assert engines.endswith("built and not run")
    command = [sys.executable, "-m", "runtime.selftest", str(bundle)]
    assert subprocess.run([*command, "--allow-failed"], capture_output=True, cwd=ROOT, check=False).returncode == 0
    built = subprocess.run(
        [*command[:2], "runtime.build", str(bundle), "--allow-failed"], capture_output=True, text=True, cwd=ROOT
    )
    assert built.stderr.count("a matching engine is there") == 2, "what came with the bundle is not built again"


def test_layers_that_cost_most_stay_in_fp32_where_the_recipe_asks_for_less_error(
    cache: Path, finished: tuple[Path, subprocess.CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("precision.smooth=0.5", "precision.max_error=0", "precision.max_kept=2", "precision.calibration=entropy")
    models = json.loads((artifact(cache, monkeypatch, "precision", "jetson", *asked) / "models.json").read_text())
    assert [entry["path"] for entry in models] == ["model.onnx", "model.cpu.onnx"]
    assert all(entry["note"].endswith(", 2 layers in fp32") for entry in models)


def test_what_is_not_int8_in_tensorrts_file_computes_in_half_where_the_recipe_asks_for_it(
    cache: Path, finished: tuple[Path, subprocess.CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load(artifact(cache, monkeypatch, "precision", "jetson", "precision.rest=fp16") / "model.onnx")
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    assert {types[name] for node in products for name in node.output if name in types} == {onnx.TensorProto.FLOAT16}
    norms = [node for node in model.graph.node if node.op_type == "LayerNormalization"]
    assert {types[node.output[0]] for node in norms} == {onnx.TensorProto.FLOAT}


def test_four_bit_weights_ship_for_a_cpu_and_nowhere_else(
    cache: Path, finished: tuple[Path, subprocess.CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("precision.mode=int4", "precision.max_error=1")
    (model,) = json.loads((artifact(cache, monkeypatch, "precision", "cpu", *asked) / "models.json").read_text())
    assert model["precision"] == "int4" and model["note"] == "4-bit weights"
    with pytest.raises(InputError, match="target jetson-orin-nano has no int4; it takes fp32, fp16, int8"):
        artifact(cache, monkeypatch, "precision", "jetson", *asked)


def test_a_missing_tensorrt_is_told_before_any_work_with_the_command_that_installs_it(tmp_path: Path) -> None:
    (tmp_path / "tensorrt_rtx.py").write_text("raise ImportError('libtensorrt_rtx.so.1: cannot open')\n")
    (tmp_path / "tensorrt_rtx_bindings.py").write_text("raise ImportError('libtensorrt_rtx.so.1: cannot open')\n")
    done = subprocess.run(
        [sys.executable, "-m", "compress.run", *SMALL, "--target", "rtx", "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        env={**environment(tmp_path / "cache"), "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        check=False,
    )
    assert "pip install onnxruntime-ep-nv-tensorrt-rtx-cu13==" in one_line_error(done, 3)
    assert not (tmp_path / "out").exists()


def test_the_bundle_runs_where_there_is_numpy_and_onnxruntime_alone_and_no_network(
    finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    with np.load(ROOT / "compress" / "zoo" / "mnist" / "test.npz") as data:
        Image.fromarray(data["images"][0]).save(tmp_path / "digit.png")
    python = make_environment(tmp_path / "venv")
    absent = (
        "import importlib.util as u; assert not any(map(u.find_spec, ['torch', 'PIL', 'onnx', 'compress', 'export']))"
    )
    online = "import urllib.request as r; r.urlopen('http://127.0.0.1')"
    ran = [
        subprocess.run([python, "-E", "-c", code], capture_output=True, cwd=tmp_path, check=False)  # no $PYTHONPATH
        for code in (absent, online)
    ]
    assert ran[0].returncode == 0 and b"offline" in ran[1].stderr
    for what, command in commands(finished[0] / "bundle", str(tmp_path / "digit.png")).items():
        done = call(python, tmp_path, *command)
        assert done.returncode == 0, f"{what}: {done.stderr}"
        assert done.stdout


def test_a_gate_that_fails_marks_the_bundle_and_exits_with_one(
    cache: Path, finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = compress(cache, *SMALL[:4], "--max-drop", "0", *SMALL[6:], "--out", str(tmp_path / "strict"))
    assert "gate" in one_line_error(done, 1)
    manifest = json.loads((tmp_path / "strict" / "bundle" / "manifest.json").read_text())
    assert manifest["verdict"] == "fail"
    assert done.stdout.splitlines()[-1].startswith("verdict: fail")


def test_a_run_killed_while_it_heals_goes_on_and_ends_with_the_same_bundle(
    finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    cache, out = tmp_path / "cache", tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "compress.run", *SMALL, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(cache),
        cwd=ROOT,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("heal: started"):
            break
    time.sleep(1.0)
    process.kill()
    process.wait()
    assert not out.joinpath("bundle").exists()
    done = compress(cache, *SMALL, "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "source: cached" in done.stdout
    assert digests(out / "bundle") == digests(finished[0] / "bundle")
