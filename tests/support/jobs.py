"""Runs of the whole pipeline: in processes of their own on the small embedded model, and in this one."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

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


def command(cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The same in this process, where its libraries are loaded already."""
    from compress.cli import start
    from compress.run import main

    streams = io.StringIO(), io.StringIO()
    asked_to_end, code = signal.getsignal(signal.SIGTERM), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(streams[0]), redirect_stderr(streams[1]):
        patch.setenv("EDGEPRESS_CACHE", str(cache))
        patch.setattr("sys.argv", ["compress.run", *arguments])
        try:
            start(main, "compress.run")
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            signal.signal(signal.SIGTERM, asked_to_end)
    return subprocess.CompletedProcess(arguments, code, *(stream.getvalue() for stream in streams))


@contextmanager
def in_haste(cache: Path) -> Iterator[None]:
    """Runs in this process have this cache, and timings that take no time."""
    from compress.stages import timing

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEPRESS_CACHE", str(cache))
        patch.setattr(timing, "ROUNDS", 1)
        patch.setattr(timing, "SECONDS", 0.01)
        patch.setattr(timing, "CONTEXTS", (8,))
        patch.setattr(timing, "DECODE_SECONDS", 0.01)
        yield


def shipped(model: Path | str, data: Path | str, folder: Path, *settings: str, max_drop: float = 20.0) -> Path:
    """The bundle that a run in this process with the recipe `identity` makes of a model for the CPU in fp32, with
    timings that take no time; its cache is beside it."""
    from compress import run

    with in_haste(folder / "cache"):
        given = {"model": str(model), "data": str(data), "recipe": "identity", "out": folder / "out"}
        every = ["precision.mode=fp32", *settings]
        assert run.main("cpu", **given, max_drop=max_drop, settings=every) == 0  # type: ignore[arg-type]
    return folder / "out" / "bundle"


def device(bundle: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The device's command about a bundle that is `shipped`, in a process of its own."""
    command = [sys.executable, "-m", "runtime.run", str(bundle), *arguments]
    env = environment(bundle.parents[1] / "cache")
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False, cwd=ROOT, timeout=120)


def asked(bundle: Path, *arguments: str) -> list[dict[str, Any]]:
    """What the device's command answers to these inputs and options."""
    done = device(bundle, *arguments, "--json")
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
