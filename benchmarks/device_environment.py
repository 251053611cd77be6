"""A bundle in an environment like a device's: a virtual environment with numpy and onnxruntime alone, offline.

    python -m benchmarks.device_environment out/bundle INPUT --json benchmarks/results/device-environment.json

The environment is made of the packages that are installed here: links to numpy and onnxruntime, a copy of `runtime` and
`targets`, nothing else, and a start-up hook that refuses every network connection. `run`, `selftest` and `bench` must
work there; the time from the start of the process to its first result is measured over several starts.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from importlib.metadata import version
from pathlib import Path

from runtime.cli import positive
from runtime.files import write_atomic
from runtime.measuring.power import cpu_name
from targets.errors import EnvironmentLacks, GateFailed, run_cli

PACKAGES = ("numpy", "numpy.libs", "onnxruntime")
OWN = ("runtime", "targets")
_OFFLINE = """import socket

def refuse(*args, **options):
    raise OSError("this environment is offline")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
"""


def make_environment(folder: Path) -> Path:
    """Make the environment in `folder`; returns its Python. Raises EnvironmentLacks without numpy or onnxruntime."""
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    site = next(folder.glob("lib/python*/site-packages"))
    for name in PACKAGES:
        found = importlib.util.find_spec(name.partition(".")[0])
        if found is None or found.origin is None:
            raise EnvironmentLacks(f"{name} is not installed; pip install numpy onnxruntime")
        source = Path(found.origin).parents[1] / name
        if source.is_dir():  # older numpy has its libraries inside
            (site / name).symlink_to(source)
    for name in OWN:
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None
        shutil.copytree(Path(spec.origin).parent, site / name, ignore=shutil.ignore_patterns("__pycache__"))
    (site / "sitecustomize.py").write_text(_OFFLINE)
    return folder / "bin" / "python"


def call(python: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m ARGUMENTS` there, in an empty working folder."""
    clean = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "OMP_NUM_THREADS")}
    return subprocess.run(
        [str(python), "-m", *arguments], capture_output=True, text=True, cwd=folder, env=clean, check=False
    )


def commands(bundle: Path, given: str) -> dict[str, list[str]]:
    """What a device does with a bundle."""
    return {
        "run": ["runtime.run", str(bundle), given],
        "selftest": ["runtime.selftest", str(bundle)],
        "bench": ["runtime.bench", str(bundle), "--seconds", "0.2", "--json"],
    }


def main() -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.device_environment", description=__doc__)
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
        "command": f"python -m benchmarks.device_environment {' '.join(sys.argv[1:])}",
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
    write_atomic(args.json, (json.dumps(whole, indent=1) + "\n").encode())
    print(f"run, selftest and bench work; start to first result {statistics.median(seconds):.2f} s")
    if statistics.median(seconds) >= 1:
        raise GateFailed("start to first result takes a second or more")
    return 0


if __name__ == "__main__":
    run_cli(main)
