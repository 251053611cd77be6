"""What a device tells of its power mode, clocks and temperatures. Everything that it does not tell is left out."""

from __future__ import annotations

import platform
import re
from pathlib import Path

from targets.machine import device_model, read_text

_ROOT = Path("/")


def cpu_name(root: Path = _ROOT) -> str:
    """The processor's name; on Arm boards that of the board."""
    found = re.search(r"^model name\s*:\s*(.+)$", read_text(root / "proc/cpuinfo") or "", re.MULTILINE)
    return found[1] if found else device_model(root) or platform.processor() or platform.machine()


def readings(root: Path = _ROOT) -> dict[str, object]:
    """Power mode (nvpmodel), governor, clocks in MHz and temperatures in Celsius, as far as the system exposes them."""
    told: dict[str, object] = {
        "power_mode": _power_mode(root),
        "governor": read_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "cpu_mhz": _clocks(root / "sys/devices/system/cpu", "cpu[0-9]*/cpufreq/scaling_cur_freq", 1_000),
        "gpu_mhz": _clocks(root / "sys/class/devfreq", "*gpu*/cur_freq", 1_000_000),
        "temperature_c": _temperatures(root / "sys/class/thermal"),
    }
    return {name: value for name, value in told.items() if value}


def _power_mode(root: Path) -> str | None:
    """nvpmodel keeps the mode's number in a status file ('pmode:0002') and the names in its configuration."""
    status = re.fullmatch(r"pmode:\s*(\d+)", read_text(root / "var/lib/nvpmodel/status") or "")
    if status is None:
        return None
    number = int(status[1])
    names = re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", read_text(root / "etc/nvpmodel.conf") or "")
    return next((f"{name} ({number})" for at, name in names if int(at) == number), str(number))


def _clocks(folder: Path, pattern: str, per_mhz: int) -> list[int]:
    texts = [read_text(path) for path in sorted(folder.glob(pattern))]
    return [int(text) // per_mhz for text in texts if text and text.isdigit()]


def _temperatures(folder: Path) -> dict[str, float]:
    """A zone that is switched off has no readable temperature."""
    zones = {}
    for zone in sorted(folder.glob("thermal_zone*")):
        kind, text = read_text(zone / "type"), read_text(zone / "temp")
        if kind and text and re.fullmatch(r"-?\d+", text):
            zones[kind] = int(text) / 1000
    return zones
