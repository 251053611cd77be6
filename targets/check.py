"""Hold a machine against a target's table."""

from __future__ import annotations

from collections.abc import Sequence

from targets.errors import InputError
from targets.machine import Machine
from targets.spec import Software, Target

_MEMORY_SHARE = 0.8  # firmware and the kernel keep some of the nominal memory


def lacking(target: Target, machine: Machine) -> list[str]:
    """One line per thing that `machine` lacks to be `target`; empty if it fits."""
    return [
        *_device(target, machine),
        *_memory(target, machine),
        *_gpu(target, machine),
        *_jetpack(target, machine),
        *_runtimes(target, machine),
    ]


def detect(targets: Sequence[Target], machine: Machine) -> Target:
    """The target that this machine is: by device model, then GPU, then architecture. Raises InputError if none fits."""
    model = machine.device_model or ""
    capability = machine.gpu.compute_capability if machine.gpu else None
    for target in targets:
        if any(text in model for text in target.hardware.device_models):
            return target
    for target in targets:
        hardware = target.hardware
        if capability and hardware.compute_capability == capability and hardware.arch == machine.arch:
            return target
    for target in targets:
        if target.hardware.compute_capability is None and target.hardware.arch == machine.arch:
            return target
    raise InputError(f"no target fits this machine ({machine.arch}); name one: python -m targets check NAME")


def _device(target: Target, machine: Machine) -> list[str]:
    hardware = target.hardware
    lines = []
    if machine.arch != hardware.arch:
        lines.append(f"architecture: this machine is {machine.arch}, {target.name} is {hardware.arch}")
    wanted = hardware.device_models
    if wanted and not any(text in (machine.device_model or "") for text in wanted):
        found = machine.device_model or "unknown (no /proc/device-tree/model)"
        lines.append(f"device: this machine is {found}, {target.name} is named {' or '.join(wanted)}")
    return lines


def _memory(target: Target, machine: Machine) -> list[str]:
    hardware = target.hardware
    if hardware.memory_kind == "gpu":
        have, where = (machine.gpu.memory_bytes if machine.gpu else None), "GPU memory"
    else:
        have, where = machine.memory_bytes, "memory"
    if have is None or have >= hardware.memory_gb * 1e9 * _MEMORY_SHARE:
        return []
    return [f"{where}: {have / 1e9:.1f} GB here, {target.name} has {hardware.memory_gb} GB"]


def _gpu(target: Target, machine: Machine) -> list[str]:
    wanted = target.hardware.compute_capability
    if wanted is None:
        return []
    if machine.gpu is None:
        # Older JetPacks have no nvidia-smi; there the device model speaks for the GPU.
        return [] if target.hardware.memory_kind == "unified" else ["GPU: no NVIDIA driver answers (nvidia-smi)"]
    if machine.gpu.compute_capability != wanted:
        have = machine.gpu.compute_capability
        return [f"GPU: {machine.gpu.name} has compute capability {have}, {target.name} has {wanted}"]
    return []


def _jetpack(target: Target, machine: Machine) -> list[str]:
    releases = [release for row in target.software for release in row.l4t]
    if not releases:
        return []
    allowed = ", ".join(f"{row.jetpack} (L4T {', '.join(row.l4t)})" for row in target.software if row.l4t)
    if machine.l4t is None:
        return [f"JetPack: none found (no /etc/nv_tegra_release); the table has {allowed}"]
    if machine.l4t not in releases:
        return [f"JetPack: L4T {machine.l4t} is not in the table; it has {allowed}"]
    return []


def _runtimes(target: Target, machine: Machine) -> list[str]:
    lines = []
    if "tensorrt" in target.backends:
        lines += _tensorrt(target, machine)
    if "cpu" in target.backends:
        lines += _onnxruntime(target, machine)
    first = target.backends[0]
    lack = machine.lacks.get(first) if first not in ("tensorrt", "cpu") else None
    return [*lines, f"{first}: {lack}"] if lack else lines


def _tensorrt(target: Target, machine: Machine) -> list[str]:
    rows = _rows_for(target, machine)
    flavours = [
        ("TensorRT", machine.tensorrt, [row.tensorrt for row in rows if row.tensorrt]),
        ("TensorRT for RTX", machine.tensorrt_rtx, [row.tensorrt_rtx for row in rows if row.tensorrt_rtx]),
    ]
    present = [(name, have, known) for name, have, known in flavours if have and known]
    if not present:
        advice = "install JetPack's" if target.hardware.memory_kind == "unified" else "pip install tensorrt"
        return [f"TensorRT: its Python module does not import; {advice}"]
    name, have, known = present[0]
    if _between(have, known, exact=any(row.l4t for row in rows)):
        return []
    return [f"{name}: {have} is not in the table for {target.name}; it has {', '.join(dict.fromkeys(known))}"]


def _onnxruntime(target: Target, machine: Machine) -> list[str]:
    if machine.onnxruntime is None:
        return ["ONNX Runtime: it does not import; pip install onnxruntime"]
    if "CPUExecutionProvider" not in machine.providers:
        return [f"ONNX Runtime: {machine.onnxruntime} offers no CPUExecutionProvider; pip install onnxruntime"]
    known = [row.onnxruntime for row in target.software if row.onnxruntime]
    if known and _version(machine.onnxruntime) < min(map(_version, known)):
        return [f"ONNX Runtime: {machine.onnxruntime} is older than {known[0]}; pip install -U onnxruntime"]
    return []


def _rows_for(target: Target, machine: Machine) -> list[Software]:
    """The rows of this machine's JetPack, or all if that is unknown."""
    return [row for row in target.software if machine.l4t in row.l4t] or list(target.software)


def _between(have: str, known: Sequence[str], *, exact: bool) -> bool:
    """Whether `have` is one of the known major.minor versions or, unless exact, from the oldest to the newest major."""
    version = _version(have)
    if exact:
        return any(version[:2] == _version(one)[:2] for one in known)
    return min(map(_version, known)) <= version and version[0] <= max(map(_version, known))[0]


def _version(text: str) -> tuple[int, ...]:
    digits = []
    for part in text.split("."):
        if not part.isdigit():
            break
        digits.append(int(part))
    return tuple(digits)
