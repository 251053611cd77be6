"""A bundle in an environment like a device's: a virtual environment with numpy and onnxruntime alone, offline.

    python -m benchmarks device-environment out/bundle INPUT --json benchmarks/results/device-environment.json

`run`, `selftest` and `bench` must work there; the time from the start of the process to its first result is measured
over several starts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from benchmarks.lab import record
from runtime.cli import positive
from runtime.measuring.power import cpu_name
from targets.errors import GateFailed, run_cli
from tests.support.device import call, commands, make_environment


def main() -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks device-environment", description=__doc__)
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument("input", metavar="INPUT", help="what runtime.run is given: an image")
    parser.add_argument("--starts", metavar="N", type=positive, default=7, help="starts to time (default 7)")
    parser.add_argument("--json", metavar="FILE", type=Path, required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = make_environment(folder / "venv")
        outputs = {}
        given = str(Path(args.input).absolute())
        for what, command in commands(args.bundle.absolute(), given).items():
            done = call(python, folder, *command)
            if done.returncode:
                raise GateFailed(f"{what} exits {done.returncode} in the device environment: {done.stderr.strip()}")
            outputs[what] = done.stdout.strip().replace(str(args.bundle.absolute()), "BUNDLE").replace(given, "INPUT")
        seconds = []
        for _ in range(args.starts):
            began = time.perf_counter()
            call(python, folder, *commands(args.bundle.absolute(), given)["run"])
            seconds.append(time.perf_counter() - began)
    whole = {
        "command": f"python -m benchmarks device-environment {' '.join(sys.argv[1:])}",
        "packages": {name: version(name) for name in ("numpy", "onnxruntime")},
        "cpu": cpu_name(),
        "run": outputs["run"],
        "selftest": outputs["selftest"],
        "bench": json.loads(outputs["bench"]),
        "start_to_result_s": {
            "median": round(statistics.median(seconds), 3),
            "all": [round(one, 3) for one in seconds],
        },
    }
    record.save(args.json, whole)
    print(f"run, selftest and bench work; start to first result {statistics.median(seconds):.2f} s")
    if statistics.median(seconds) >= 1:
        raise GateFailed("start to first result takes a second or more")
    return 0


if __name__ == "__main__":
    run_cli(main)
