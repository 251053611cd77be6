"""The main job from checkpoint to bundle, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from jobs import ROOT, SMALL, compress, digests, environment, one_line_error
from PIL import Image


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
    shipped = {name for name in digests(bundle) if name != "manifest.json"}
    assert shipped == set(manifest["files"])
    assert {"model.onnx", "model.cpu.onnx", "golden.npz", "report.html", "report.json", "junit.xml"} <= shipped
    assert all(entry["sha256"] == digests(bundle)[name] for name, entry in manifest["files"].items())


def test_the_reports_say_the_same_numbers_as_the_manifest(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    out, _ = finished
    report = json.loads((out / "report" / "report.json").read_text())
    names = [row["name"] for row in report["variants"]]
    assert names[0] == "original fp32" and "model.onnx" in names and "original int8 dynamic" in names
    assert all(row["latency_ms"] > 0 for row in report["variants"])
    assert report["verdict"] == "pass"
    assert "latency_ms" not in {
        key
        for row in json.loads((out / "bundle" / "report.json").read_text())["variants"]
        for key, value in row.items()
        if value is not None
    }, "a bundle must not depend on the clock"


def test_a_second_run_does_no_work_and_takes_under_five_seconds(
    cache: Path, finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    began = time.monotonic()
    done = compress(cache, *SMALL, "--out", str(tmp_path / "again"), "--json")
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verdict"] == "pass"
    assert digests(tmp_path / "again" / "bundle") == digests(finished[0] / "bundle")
    events = [json.loads(line) for line in (tmp_path / "again" / "log.jsonl").read_text().splitlines()]
    assert not [event for event in events if event["event"] == "StageStarted"]
    assert seconds < 5


def test_the_plan_shows_what_is_cached_and_runs_nothing(
    cache: Path, finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = compress(cache, *SMALL, "--dry-run", "--json", "--out", str(tmp_path / "none"))
    rows = json.loads(done.stdout)
    assert all(row["cached"] for row in rows) and len(rows) > 12
    fresh = json.loads(compress(tmp_path / "empty", *SMALL, "--dry-run", "--json").stdout)
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
