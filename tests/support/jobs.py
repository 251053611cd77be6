"""Runs of the whole pipeline in processes of their own, on the small embedded model."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

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


def one_line_error(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The error line of a refused run, after checking that it is one line, with this exit code and no traceback."""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    assert len(errors) == 1, done.stderr
    return errors[0]


def digests(folder: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every file, but for what the machine that runs a bundle notes in it."""
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in files.items()
        if not name.startswith("local/")
    }
