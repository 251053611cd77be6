"""Kill the main job with SIGKILL at random moments, run it again, and compare its bundle with an undisturbed run's.

    python -m benchmarks kill-runs RESULT.json [--kills 10] [--model zoo:vit-mnist]

Each kill starts from an empty cache and strikes between the first and the last second that an undisturbed run takes,
in the middle of healing too (the healing is made long enough to be hit). The rerun must end with the same bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.lab import record
from compress.pipeline.digest.tree import digest_tree

SETTINGS = (
    *("--set", "data.limit=300", "--set", "calibrate.samples=64", "--set", "calibrate.held_out=64"),
    *("--set", "heal.steps=200", "--set", "heal.eval_every=50", "--set", "heal.flip=false", "--max-drop", "6"),
)


def start(model: str, folder: Path) -> subprocess.Popen[str]:
    """The main job in a process group of its own; cache and output in `folder`."""
    command = [sys.executable, "-m", "compress.run", "--target", "jetson", "--model", model, *SETTINGS]
    return subprocess.Popen(
        [*command, "--out", str(folder / "out")],
        env={**os.environ, "EDGEPRESS_CACHE": str(folder / "cache")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )


def bundle_digest(folder: Path) -> str:
    """One digest over the names and bytes of all files of the bundle."""
    return digest_tree(folder / "out" / "bundle")


def stage_reached(folder: Path) -> str:
    """The stage that was at work when the run was killed."""
    log = folder / "out" / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")] if log.is_file() else []
    return next((str(line["stage"]) for line in reversed(lines) if line.get("stage")), "before the first stage")


def undisturbed(model: str) -> tuple[float, str]:
    """Seconds that a run takes and the digest of its bundle."""
    with tempfile.TemporaryDirectory() as name:
        began = time.monotonic()
        if start(model, Path(name)).wait():
            raise SystemExit("the undisturbed run failed")
        return time.monotonic() - began, bundle_digest(Path(name))


def killed(model: str, after: float, wanted: str) -> dict[str, object]:
    """Kill a run after some seconds, run it again and compare."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = start(model, folder)
        time.sleep(after)
        was_running = run.poll() is None
        if was_running:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
        stage = stage_reached(folder)
        code = start(model, folder).wait()
        same = code == 0 and bundle_digest(folder) == wanted
    return {"seconds": round(after, 2), "killed": was_running, "in": stage, "rerun_exit": code, "same_bytes": same}


def main() -> int:
    """0 if every killed run ended with the same bytes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--model", default="zoo:vit-mnist")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    seconds, wanted = undisturbed(args.model)
    draw = random.Random(args.seed)
    moments = sorted(draw.uniform(1.0, seconds) for _ in range(args.kills))
    rows = []
    for moment in moments:
        rows.append(killed(args.model, moment, wanted))
        print(rows[-1], flush=True)
    result = {"undisturbed_seconds": round(seconds, 1), "bundle": wanted, "kills": rows}
    surroundings = record.surroundings()
    record.save(args.result, {"command": record.command("kill-runs"), **surroundings, **result})
    return 0 if all(row["same_bytes"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
