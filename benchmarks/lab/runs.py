"""Whole runs, each in a process of its own: what they cost, what they say of what they ship, and whether a device
opens it.

A process is a fork of this one, which loads the libraries once and computes nothing itself; so seconds are without the
time that Python takes to import them. Nothing is timed on the way: files are asked once where a run asks for seconds,
so no latency of these runs means anything.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.lab import record


def load_libraries() -> None:
    """Import what a run imports, and export once, so that every fork has what that loads."""
    import onnx
    import onnxruntime
    import onnxscript
    import safetensors.torch
    import scipy.stats
    import tokenizers
    import torch.export
    import torch.onnx
    import transformers

    import compress.run
    from export.quiet import quiet

    assert all((onnx, onnxruntime, onnxscript, safetensors, scipy, tokenizers, transformers, compress))
    with quiet():
        torch.onnx.export(torch.nn.Linear(2, 2).eval(), (torch.zeros(1, 2),), dynamo=True, verbose=False)


class Rows:
    """Rows of a result by name, written after each, over those that are there already."""

    def __init__(self, path: Path, key: str, name: str, command: str) -> None:
        self.path, self.key, self.name, self.command = path, key, name, command
        known = json.loads(path.read_text(encoding="utf-8"))[key] if path.is_file() else []
        self.rows: dict[str, dict[str, Any]] = {row[name]: row for row in known}

    def add(self, row: dict[str, Any]) -> None:
        """Take in a row, with the commit at which it was measured."""
        self.rows[row[self.name]] = {**row, "commit": record.provenance({})["commit"]}
        record.save(self.path, {"command": self.command, self.key: list(self.rows.values())})
        print(json.dumps({**row, "metrics": None}), flush=True)


def forked(folder: Path, call: Callable[[], object]) -> dict[str, Any]:
    """What a call in a process of its own took: exit code, seconds, most memory in MB (this process's own libraries
    with it), and the last line that it printed. What it prints goes into folder/log.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    log, began = folder / "log.txt", time.monotonic()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os._exit(_called(log, call))
    _, status, usage = os.wait4(child, 0)
    said = [line.strip() for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    return {
        "exit": os.waitstatus_to_exitcode(status),
        "seconds": round(time.monotonic() - began, 1),
        "peak_mb": usage.ru_maxrss >> 10,
        "said": said[-1][:300] if said else "",
    }


def _called(log: Path, call: Callable[[], object]) -> int:
    """The exit code of a call whose output goes into a file."""
    with log.open("w", encoding="utf-8") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    try:
        call()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:  # noqa: BLE001 - the end of a process: whatever it was stands in the log
        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def whole(folder: Path, cache: Path, *arguments: str) -> dict[str, Any]:
    """`compress.run` for the CPU with these arguments into folder/out. Beside what `forked` gives: what is said of the
    gate, each file's bytes, and the metrics of the one that decides."""
    out = folder / "out"
    row = forked(folder, lambda: _run(cache, "--target", "cpu", "--out", str(out), *arguments))
    manifest = out / "bundle" / "manifest.json"
    if not manifest.is_file():
        return row
    report, bundle = json.loads((out / "report" / "report.json").read_text()), json.loads(manifest.read_text())
    row["verdict"] = bundle["verdict"]
    row["files"] = {one["name"]: one["bytes"] for one in report["variants"] if one["bytes"]}
    row["parameters"] = [one["parameters"] for one in report["variants"] if one["parameters"]]
    [*_, (file, drift)] = bundle["drift"].items()
    row |= {"judged": file, "samples": drift["samples"], "message": drift["message"], "metrics": drift["metrics"]}
    return row


def _run(cache: Path, *arguments: str) -> None:
    from compress.cli import start
    from compress.run import main
    from compress.stages import timing

    timing.ROUNDS, timing.SECONDS, timing.CONTEXTS, timing.DECODE_SECONDS = 1, 0.01, (8,), 0.01
    os.environ |= {"EDGEPRESS_CACHE": str(cache), "COLUMNS": "200"}
    sys.argv = ["compress.run", *arguments]
    start(main, "compress.run")


def opened(folder: Path, asked: str) -> dict[str, Any]:
    """The bundle of `whole` by its own program, as a device opens it: its self-test, and its answer to one input."""
    app = str(folder / "out" / "bundle" / "edgepress.pyz")
    found = {}
    for name, command in (("selftest", ["selftest"]), ("run", ["run", asked])):
        program = [sys.executable, app, *command, "--allow-failed"]
        row = forked(folder / name, partial(os.execv, sys.executable, program))
        found[name] = {key: row[key] for key in ("exit", "said")}
    return found
