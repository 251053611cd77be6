"""What this machine is and has: architecture, memory, device model, JetPack, GPU, runtimes."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_ROOT = Path("/")
_HOME = str(Path(__file__).parents[1])  # of these packages, which may be a zip
_ARCH = {"amd64": "x86_64", "arm64": "aarch64"}
_PROBES = {
    "onnxruntime": "import onnxruntime as m; print(m.__version__, *m.get_available_providers())",
    "tensorrt": "import tensorrt as m; print(m.__version__)",
    # two packages hold it, and one of them wants its libraries loaded first: as the device side does
    "tensorrt_rtx": "from runtime.engines import trt; print(trt.load('tensorrt_rtx').version)",
    "backends": "import json; from runtime.backends import get, names;"
    "print(json.dumps({name: get(name).lacks() for name in names()}))",
}
_PACKAGES = {"tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"), "backends": ("runtime",)}


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU as its driver reports it."""

    name: str
    memory_bytes: int
    compute_capability: str
    driver: str


@dataclass(frozen=True)
class Machine:
    """Facts about a machine; None where it does not say. `lacks`: what each backend of the device side lacks here."""

    arch: str
    memory_bytes: int | None = None
    device_model: str | None = None
    l4t: str | None = None
    gpu: Gpu | None = None
    onnxruntime: str | None = None
    providers: tuple[str, ...] = ()
    tensorrt: str | None = None
    tensorrt_rtx: str | None = None
    lacks: Mapping[str, str | None] = field(default_factory=dict)


def probe(root: Path = _ROOT) -> Machine:
    """Look at this machine. `root` stands for / (tests give another). Takes a second: runtimes are imported apart."""
    ort = _import_apart("onnxruntime")
    trt = _import_apart("tensorrt")
    rtx = _import_apart("tensorrt_rtx")
    return Machine(
        arch=architecture(),
        memory_bytes=memory_bytes(root),
        device_model=device_model(root),
        l4t=l4t_release(root),
        gpu=_gpu(),
        onnxruntime=ort[0] if ort else None,
        providers=tuple(ort[1:]),
        tensorrt=trt[0] if trt else None,
        tensorrt_rtx=rtx[0] if rtx else None,
        lacks=json.loads(" ".join(_import_apart("backends")) or "{}"),
    )


def architecture() -> str:
    """'x86_64' or 'aarch64' (or what the platform says)."""
    machine = platform.machine().lower()
    return _ARCH.get(machine, machine)


def read_text(path: Path) -> str | None:
    """The stripped text of a small file of /proc or /sys, or None if there is none to read."""
    try:
        return path.read_bytes().decode(errors="replace").strip("\x00 \t\r\n")
    except OSError:
        return None


def memory_bytes(root: Path = _ROOT, field: str = "MemTotal") -> int | None:
    """A field of /proc/meminfo in bytes (MemTotal: all memory, MemAvailable: what new work can have)."""
    found = re.search(rf"^{field}:\s+(\d+) kB", read_text(root / "proc/meminfo") or "", re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def device_model(root: Path = _ROOT) -> str | None:
    """The board's name from the device tree, such as 'NVIDIA Jetson Orin Nano Developer Kit'."""
    return read_text(root / "proc/device-tree/model")


def l4t_release(root: Path = _ROOT) -> str | None:
    """Jetson Linux release such as '36.4.3', from /etc/nv_tegra_release."""
    text = read_text(root / "etc/nv_tegra_release") or ""
    found = re.search(r"# R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return f"{found[1]}.{found[2]}" if found else None


def usable_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _import_apart(module: str) -> list[str]:
    """What the module's probe prints in a process of its own (a broken library cannot take this one down), or []."""
    if not any(importlib.util.find_spec(name) for name in _PACKAGES.get(module, (module,))):
        return []
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBES[module]],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([_HOME, *filter(None, [os.environ.get("PYTHONPATH")])])},
        )
    except subprocess.TimeoutExpired:
        return []
    return done.stdout.split() if done.returncode == 0 else []


def _gpu() -> Gpu | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = "--query-gpu=name,memory.total,compute_cap,driver_version"
    try:
        done = subprocess.run(
            [program, query, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=20, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    return parse_gpu(done.stdout) if done.returncode == 0 else None


def parse_gpu(line: str) -> Gpu | None:
    """The first GPU in nvidia-smi's CSV; a Jetson reports no memory of its own ('[N/A]'), so 0 there."""
    parts = [part.strip() for part in (line.splitlines() or [""])[0].split(",")]
    if len(parts) != 4:
        return None
    name, memory, capability, driver = parts
    return Gpu(name, int(memory) << 20 if memory.isdigit() else 0, capability, driver)
