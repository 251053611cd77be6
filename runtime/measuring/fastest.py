"""Which number of CPU threads runtime.bench found fastest, remembered beside the bundle's files for this machine alone.

It is no part of the bundle, whose bytes depend on no clock and whose next device may have other cores.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from runtime.files import write_atomic
from runtime.measuring.power import cpu_name
from targets.errors import InputError
from targets.machine import usable_cpus
from targets.strict import read

if TYPE_CHECKING:
    from runtime.bundles.bundle import Bundle
    from runtime.bundles.manifest import ModelFile

FILE = "local/threads.json"


@dataclass(frozen=True)
class _Measured:
    """`fastest`: SHA-256 of a file -> batch -> number of threads, on `machine`."""

    machine: str
    fastest: dict[str, dict[str, int]]


def remembered(bundle: Bundle, model: ModelFile, batch: int) -> int | None:
    """The fastest number of threads for batches of that size, or None where this machine has not measured it."""
    return _read(bundle).fastest.get(bundle.manifest.files[model.path].sha256, {}).get(str(batch))


def remember(bundle: Bundle, model: ModelFile, batch: int, threads: int) -> None:
    """Keep what was measured. Raises InputError or EnvironmentLacks where the bundle's folder cannot be written."""
    measured = _read(bundle)
    measured.fastest.setdefault(bundle.manifest.files[model.path].sha256, {})[str(batch)] = threads
    write_atomic(bundle.root / FILE, json.dumps(asdict(measured), indent=1, sort_keys=True).encode() + b"\n")


def _read(bundle: Bundle) -> _Measured:
    """What is remembered; nothing if that is damaged, of another machine or of more threads than there are CPUs."""
    machine = f"{cpu_name()}, {usable_cpus()} CPUs"
    path = bundle.root / FILE
    try:
        found = read(_Measured, json.loads(path.read_bytes()), str(path))
    except (OSError, ValueError, InputError):
        return _Measured(machine, {})
    counts = [count for row in found.fastest.values() for count in row.values()]
    whole = found.machine == machine and all(1 <= count <= usable_cpus() for count in counts)
    return found if whole else _Measured(machine, {})
