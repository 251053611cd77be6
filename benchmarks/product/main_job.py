"""The main job from an empty cache, again from a full one, and what is then asked of its bundle: seconds, exit codes.

    python -m benchmarks main-job benchmarks/results/vit-cifar10-quick.json [--set heal.steps=0]

Latencies are worth something on a quiet machine alone. Exit codes are shown where they should differ: a gate that
cannot be met (1), a recipe that does not exist (2), an engine that this machine cannot run (3).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.lab import record

RUN = ("-m", "compress.run", "--target", "jetson")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=Path)
    parser.add_argument("--set", dest="settings", metavar="KEY=VALUE", action="append", default=[])
    args = parser.parse_args()
    settings = [word for setting in args.settings for word in ("--set", setting)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out, picture = folder / "out", _picture(folder / "picture.png")
        bundle = str(out / "bundle")
        app = str(out / "bundle" / "edgepress.pyz")
        verify = ("-m", "compress.verify", "zoo:vit-cifar10", bundle, "--data", "zoo:cifar10-test")
        asked: list[tuple[int, tuple[str, ...]]] = [
            (0, (*RUN, *settings, "--out", str(out))),
            (0, (*RUN, *settings, "--out", str(out))),
            (0, (*verify, "--max-drop", "1")),
            (1, (*verify, "--max-drop", "0")),
            (2, (*RUN, "--recipe", "quik")),
            (0, (app, "selftest")),
            (0, (app, "run", str(picture))),
            (0, (app, "bench", "--seconds", "1", "--json")),
            (2, (app, "run", str(folder / "missing.png"))),
            (3, (app, "run", str(picture), "--provider", "tensorrt", "--strict-provider")),
        ]
        rows = [_row(folder, wanted, command) for wanted, command in asked]
        report = json.loads((out / "report" / "report.json").read_text())
        timing = json.loads(next((folder / "cache" / "timing").rglob("timing.json")).read_text())
        manifest = json.loads((out / "bundle" / "manifest.json").read_text())
    document = {
        "command": record.command("main-job"),
        "variants": report["variants"],
        "drift": manifest["drift"],
        "latency": timing,
        "run_seconds": rows[0]["seconds"],
        "second_run_seconds": rows[1]["seconds"],
        "commands": rows,
    }
    record.save(args.json, document)
    return 0 if all(row["exit"] == row["expected"] for row in rows) else 1


def _picture(path: Path) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    return path


def _row(folder: Path, wanted: int, command: tuple[str, ...]) -> dict[str, Any]:
    """Run a command with a cache of its own; its seconds, its exit code, and the last line that it printed."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "EDGEPRESS_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = round(time.monotonic() - began, 1)
    shown = " ".join(["python", *command]).replace(str(folder), "FOLDER")
    lines = [line for line in (done.stderr if done.returncode else done.stdout).splitlines() if line.strip()]
    last = lines[-1].replace(str(folder), "FOLDER") if lines else ""
    print(f"{done.returncode} ({wanted} expected), {seconds} s: {shown}\n    {last}", flush=True)
    return {"command": shown, "expected": wanted, "exit": done.returncode, "seconds": seconds, "last_line": last[:300]}


if __name__ == "__main__":
    sys.exit(main())
