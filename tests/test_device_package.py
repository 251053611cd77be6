"""The device side as devices have it: on Python 3.10, as a distribution of its own, and as one file in a bundle."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from export.app import app_bytes
from runtime.app import APP, VERBS

ROOT = Path(__file__).parents[1]
BUNDLES = ROOT / "tests" / "runtime" / "bundles"
#: What a JetPack 6 board gets from pip.
PACKAGES = ("runtime", "targets")
DEVICE = ("onnxruntime==1.23.2", "numpy<2")
CLEAN = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "OMP_NUM_THREADS")}


@pytest.fixture
def bundle(tmp_path):
    """An old bundle with today's device side in it."""
    folder = tmp_path / "bundle"
    with zipfile.ZipFile(BUNDLES / "jetson.zip") as archive:
        archive.extractall(folder)
    (folder / APP).write_bytes(app_bytes())
    return folder


def ask(python, tmp_path, bundle, *arguments):
    """`python edgepress.pyz ARGUMENTS` in an empty folder, far from this checkout."""
    (tmp_path / "empty").mkdir(exist_ok=True)
    environment = {**CLEAN, "EDGEPRESS_CACHE": str(tmp_path / "cache"), "PYTHONSAFEPATH": "1"}
    command = [str(python), str(bundle / APP), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path / "empty", env=environment, check=False)


def try_every_verb(python, tmp_path, bundle):
    Image.new("RGB", (8, 8), (9, 200, 31)).save(tmp_path / "a.png")
    (tmp_path / "in").mkdir()
    shutil.copy(tmp_path / "a.png", tmp_path / "in" / "b.png")
    ran = ask(python, tmp_path, bundle, "run", tmp_path / "a.png", "--json")
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout)["results"][0]["top"][0]
    watched = ask(python, tmp_path, bundle, "watch", tmp_path / "in", "--out", tmp_path / "out.jsonl", "--once")
    assert watched.returncode == 0, watched.stderr
    assert json.loads((tmp_path / "out.jsonl").read_text())["top"][0] == answer
    checked = ask(python, tmp_path, bundle, "selftest")
    assert checked.returncode == 0 and checked.stdout.startswith("ok  logits"), checked.stderr
    timed = ask(python, tmp_path, bundle, "bench", "--seconds", "0.1", "--json")
    assert timed.returncode == 0 and json.loads(timed.stdout)["latency_ms"]["p50"] > 0, timed.stderr
    planned = ask(python, tmp_path, bundle, "build", "--dry-run")
    assert planned.returncode == 0 and planned.stdout.startswith("model.onnx (fp16, "), planned.stderr
    listed = ask(python, tmp_path, bundle, "targets", "show", "jetson")
    assert listed.returncode == 0 and "jetson-orin-nano" in listed.stdout, listed.stderr


def test_one_file_in_the_bundle_runs_every_command(tmp_path, bundle):
    try_every_verb(sys.executable, tmp_path, bundle)


def test_the_file_runs_its_own_code_and_not_what_is_installed(tmp_path, bundle):
    with zipfile.ZipFile(bundle / APP, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("runtime/selftest.py", "def main():\n    print('from the file')\n    return 0\n")
    assert ask(sys.executable, tmp_path, bundle, "selftest").stdout == "from the file\n"


def test_the_file_is_small_and_the_same_every_time_and_holds_the_device_side_alone(tmp_path):
    assert app_bytes() == app_bytes() and len(app_bytes()) < 400_000
    (tmp_path / APP).write_bytes(app_bytes())
    with zipfile.ZipFile(tmp_path / APP) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == {"__main__.py", "edgepress_siblings.py", "runtime", "targets"}
    assert {"targets/cpu-x86.toml", "runtime/backends/cpu.py"} <= set(names)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--help"], 0, ""),
        ([], 2, ""),
        (["selftst"], 2, "unknown command 'selftst'; allowed: run, watch"),
        (["selftest"], 2, "the following arguments are required: BUNDLE"),
        (["selftest", BUNDLES / "recurrent.zip"], 0, ""),
    ],
)
def test_wrong_usage_is_one_line_and_outside_a_bundle_one_is_named(tmp_path, arguments, code, message):
    (tmp_path / APP).write_bytes(app_bytes())
    done = ask(sys.executable, tmp_path, tmp_path, *arguments)
    assert done.returncode == code and message in done.stderr and "Traceback" not in done.stderr
    assert arguments != ["--help"] or all(f"\n  {verb}" in done.stdout for verb in VERBS)


def test_the_device_package_says_what_the_whole_package_says():
    whole, device = (
        tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"] for folder in (".", "device")
    )
    assert device["version"] == whole["version"] and device["requires-python"] == ">=3.10"
    assert [one.split(">=")[0] for one in device["dependencies"]] == ["numpy", "onnxruntime"]


def test_nothing_of_the_device_side_needs_a_later_python():
    pytest.importorskip("vermin", reason="the package vermin is not installed")
    command = [sys.executable, "-c", "import vermin; vermin.main()", "-q", "-t=3.10-", "--exclude", "tomllib"]
    done = subprocess.run([*command, "--violations", *PACKAGES], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def python310():
    """A Python 3.10 that starts, or None."""
    found = [shutil.which("python3.10"), *map(str, Path.home().glob(".pyenv/versions/3.10.*/bin/python"))]
    for path in filter(None, found):
        command = [path, "-c", "import sys, venv; print(sys.version_info[:2])"]
        if subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() == "(3, 10)":
            return path
    return None


@pytest.fixture(scope="module")
def device_python(request):
    """The Python of an environment like that of a JetPack 6 board; it is made once and kept in pytest's cache."""
    base = python310()
    if base is None:
        pytest.skip("no Python 3.10 here; vermin and mypy hold the device side to it")
    folder = request.config.cache.mkdir("device-python-3.10")
    python = folder / "bin" / "python"
    probe = [str(python), "-c", "import numpy, onnxruntime"]
    if not python.exists() or subprocess.run(probe, capture_output=True).returncode:
        subprocess.run([base, "-m", "venv", "--clear", str(folder)], check=True, capture_output=True)
        install = [str(python), "-m", "pip", "install", "-q", "--retries", "0", "--timeout", "10", *DEVICE]
        if subprocess.run(install, capture_output=True, check=False).returncode:
            pytest.skip(f"Python 3.10 is here, {' and '.join(DEVICE)} cannot be had for it")
    return python


def test_python_310_runs_every_command_from_the_file_in_the_bundle(device_python, tmp_path, bundle):
    try_every_verb(device_python, tmp_path, bundle)


def test_python_310_runs_the_modules_and_the_targets(device_python, tmp_path):
    environment = {**CLEAN, "PYTHONPATH": str(ROOT), "EDGEPRESS_CACHE": str(tmp_path / "cache")}
    for arguments in (
        ["runtime.selftest", str(BUNDLES / "recurrent.zip")],
        ["targets", "list"],
        ["targets", "check", "cpu"],
    ):
        done = subprocess.run(
            [str(device_python), "-m", *arguments], capture_output=True, text=True, cwd=tmp_path, env=environment
        )
        assert done.stdout and "Traceback" not in done.stderr
        assert done.returncode == 0 or (done.returncode == 3 and "check" in arguments), done.stderr
