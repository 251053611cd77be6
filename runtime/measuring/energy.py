"""Energy that a device used over a while, where it exposes any: the counters of Intel's RAPL, or the rails of the
INA3221 power monitor that Jetsons have, whose power is sampled and summed."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from targets.machine import read_text

_ROOT = Path("/")
_PERIOD = 0.05  # seconds between two samples of a rail


@dataclass(frozen=True)
class _Counter:
    """A counter in microjoules that starts again at `limit`."""

    path: Path
    limit: int

    def read(self) -> int | None:
        return _number(self.path)


@dataclass(frozen=True)
class _Rail:
    """A rail of a power monitor: millivolts and milliamperes."""

    volts: Path
    amperes: Path

    def watts(self) -> float | None:
        volts, amperes = _number(self.volts), _number(self.amperes)
        return None if volts is None or amperes is None else volts * amperes / 1e6


class EnergyMeter:
    """Measures from `with` to its end; then `joules` maps each counter or rail to what it used. Empty where none can be
    read (RAPL is often for the administrator alone)."""

    def __init__(self, root: Path = _ROOT) -> None:
        self.joules: dict[str, float] = {}
        self._counters = _counters(root / "sys/class/powercap")
        self._rails = _rails(root / "sys/class/hwmon")
        self._over = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> EnergyMeter:
        self._first = {name: counter.read() for name, counter in self._counters.items()}
        if self._rails:
            self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rails:
            self._over.set()
            self._sampler.join()
        for name, counter in self._counters.items():
            first, last = self._first[name], counter.read()
            if first is not None and last is not None:
                self.joules[name] = (last - first) % counter.limit / 1e6

    def _sample(self) -> None:
        """Power times the time since the last sample; what is left at the end counts too."""
        before = time.monotonic()
        over = False
        while not over:
            over = self._over.wait(_PERIOD)
            now = time.monotonic()
            for name, rail in self._rails.items():
                watts = rail.watts()
                if watts is not None:
                    self.joules[name] = self.joules.get(name, 0.0) + watts * (now - before)
            before = now


def _counters(folder: Path) -> dict[str, _Counter]:
    """Whole packages; their parts (core, dram) are counted within."""
    found = {}
    for zone in sorted(folder.glob("intel-rapl:[0-9]")):
        name, limit = read_text(zone / "name"), _number(zone / "max_energy_range_uj")
        if name and limit and _number(zone / "energy_uj") is not None:
            found[name] = _Counter(zone / "energy_uj", limit + 1)
    return found


def _rails(folder: Path) -> dict[str, _Rail]:
    found = {}
    for monitor in sorted(folder.glob("hwmon*")):
        if read_text(monitor / "name") != "ina3221":
            continue
        for label in sorted(monitor.glob("in[1-3]_label")):
            number, name = label.name[2], read_text(label)
            rail = _Rail(monitor / f"in{number}_input", monitor / f"curr{number}_input")
            if name and rail.watts() is not None:
                found[name] = rail
    return found


def _number(path: Path) -> int | None:
    text = read_text(path)
    return int(text) if text and text.isdigit() else None
