"""An environment like a device's: a virtual environment with numpy and onnxruntime alone, offline.

It is made of the packages that are installed here: links to numpy and onnxruntime, a copy of `runtime` and `targets`,
nothing else, and a start-up hook that refuses every network connection.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import venv
from pathlib import Path

from targets.errors import EnvironmentLacks

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
    guard = importlib.util.find_spec("edgepress_siblings")
    assert guard is not None and guard.origin is not None
    shutil.copy(guard.origin, site)
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
