"""Kill a deployment with SIGKILL at moments spread over it, and look what is current afterwards.

    python -m benchmarks deploy-kills OLD NEW --json benchmarks/results/deploy-kills.json [--moments 100]

OLD and NEW are bundles. Each deployment of NEW over OLD dies at another touch of the file system, self-test included.
Afterwards one of the two must be current and whole, and deploying once more must succeed and leave nothing else behind.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.lab import record
from runtime.cli import positive
from targets.errors import run_cli

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests" / "support" / "deploy_kills.py"


def killed(old: Path, new: Path, moments: int) -> dict[str, object]:
    """How many touches a deployment makes, and what was found after how many kills."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(SCRIPT), str(old), str(new), folder, str(moments)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, cwd=ROOT)
    result = json.loads(done.stdout)
    return {
        "moments": moments,
        "touches": result["touches"],
        "current_afterwards": dict(Counter(result["found"])),
        "whole": set(result["found"]) <= {"old", "new"},
        "one_moment_of_switching": sorted(result["found"], reverse=True) == result["found"],
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> int:
    """0 if every kill left one of the two bundles whole and current."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--moments", type=positive, default=100)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    result = killed(args.old.resolve(), args.new.resolve(), args.moments)
    print(json.dumps(result, indent=2))
    record.save(args.json, {"command": record.command("deploy-kills"), "seed": 0, **record.surroundings(), **result})
    return 0 if result["whole"] else 1


if __name__ == "__main__":
    run_cli(main)
