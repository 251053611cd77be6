"""Runs of the whole pipeline in processes of their own, on the small embedded model."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
#: A run that takes seconds: few samples, few steps, and a gate that so few samples can still judge.
SMALL = [
    *("--model", "zoo:vit-mnist", "--target", "jetson", "--max-drop", "6"),
    *("--set", "data.limit=300", "--set", "calibrate.samples=64", "--set", "calibrate.held_out=64"),
    *("--set", "heal.steps=6", "--set", "heal.eval_every=3", "--set", "heal.flip=false"),
]


def environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "EDGEPRESS_CACHE": str(cache), "PYTHONPATH": str(ROOT), "COLUMNS": "200"}


def compress(cache: Path, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """python -m compress.run with these arguments."""
    command = [sys.executable, "-m", "compress.run", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment(cache), cwd=cwd or ROOT, check=False, timeout=280
    )


def shipped(model: Path, data: Path, folder: Path, *arguments: str) -> Path:
    """The bundle that a run with the recipe `identity` makes of a model for the CPU in fp32; its cache is beside it."""
    done = compress(
        folder / "cache",
        *("--model", str(model), "--data", str(data), "--target", "cpu", "--recipe", "identity"),
        *("--out", str(folder / "out"), "--max-drop", "20", "--set", "precision.mode=fp32", *arguments),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "out" / "bundle"


def asked(bundle: Path, *inputs: str) -> list[dict[str, Any]]:
    """What the device's command answers to these inputs and options, in a process of its own."""
    command = [sys.executable, "-m", "runtime.run", str(bundle), *inputs, "--json"]
    env = environment(bundle.parents[1] / "cache")
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    results: list[dict[str, Any]] = json.loads(done.stdout)["results"]
    return results


def one_line_error(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The error line of a refused run, after checking that it is one line, with this exit code and no traceback."""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    assert len(errors) == 1, done.stderr
    return errors[0]


def digests(folder: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every file, except for what the machine that runs a bundle notes in it."""
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in files.items()
        if not name.startswith("local/")
    }
