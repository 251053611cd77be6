"""What runtime.bench and runtime.build found fastest, remembered beside the bundle's files for this machine alone: the
number of CPU threads of each file, which backend with which file, and which TensorRT engine.

It is not part of the bundle, whose bytes depend on no clock and whose next device may have other cores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TypeVar

from runtime.bundles.manifest import GRAPH
from runtime.files import parse_json, write_atomic
from runtime.measuring.power import cpu_name
from targets.errors import InputError
from targets.machine import usable_cpus
from targets.strict import read

if TYPE_CHECKING:
    from runtime.bundles.bundle import Bundle
    from runtime.bundles.manifest import ModelFile

FILE = "local/threads.json"
BACKENDS = "local/backends.json"
ENGINES = "local/engines.json"
_MOST_BYTES = 1 << 20  # of each file: more is not ours


@dataclass(frozen=True)
class _Threads:
    """`fastest`: SHA-256 of a file -> batch -> number of threads, on `machine`."""

    machine: str
    fastest: dict[str, dict[str, int]]


@dataclass(frozen=True)
class Choice:
    """The fastest backend: its name, the SHA-256 of its file, its threads and the median ms of each that was tried."""

    backend: str
    file: str
    threads: int
    ms: dict[str, float]

    def __str__(self) -> str:
        """'openvino 1.21 ms, cpu 2.05 ms'."""
        return ", ".join(f"{name} {ms:.3g} ms" for name, ms in sorted(self.ms.items(), key=lambda one: one[1]))


@dataclass(frozen=True)
class _Choices:
    """`fastest`: batch (behind the name of a graph, where there are several) -> backend, on `machine`."""

    machine: str
    fastest: dict[str, Choice]


@dataclass(frozen=True)
class Engine:
    """The fastest engine of a graph: the SHA-256 of the file that it is built from, and the ms of each file's."""

    file: str
    ms: dict[str, float]


@dataclass(frozen=True)
class _Engines:
    """`fastest`: name of a graph -> engine, on `machine`."""

    machine: str
    fastest: dict[str, Engine]


_Kept = TypeVar("_Kept", _Threads, _Choices, _Engines)


def remembered(bundle: Bundle, model: ModelFile, batch: int) -> int | None:
    """The fastest number of threads for batches of that size, or None where this machine has not measured it."""
    return _threads(bundle).fastest.get(bundle.manifest.files[model.path].sha256, {}).get(str(batch))


def remember(bundle: Bundle, model: ModelFile, batch: int, threads: int) -> None:
    """Keep what was measured. Raises InputError or EnvironmentLacks where the bundle's folder cannot be written."""
    measured = _threads(bundle)
    measured.fastest.setdefault(bundle.manifest.files[model.path].sha256, {})[str(batch)] = threads
    _write(bundle, FILE, measured)


def remembered_choice(bundle: Bundle, batch: int) -> Choice | None:
    """The fastest backend for batches of that size, None where this machine has not compared any."""
    return _choices(bundle).fastest.get(_key(bundle, batch))


def remember_choice(bundle: Bundle, batch: int, choice: Choice) -> None:
    """Keep what was compared. Raises as `remember` does."""
    kept = _choices(bundle)
    kept.fastest[_key(bundle, batch)] = choice
    _write(bundle, BACKENDS, kept)


def engine_first(bundle: Bundle, models: Sequence[ModelFile]) -> list[ModelFile]:
    """The files of a graph for TensorRT, that of the fastest engine first where this machine has compared them."""
    fastest = _read(bundle, ENGINES, _Engines).fastest.get(bundle.manifest.graph)
    sums = bundle.manifest.files
    return sorted(models, key=lambda model: fastest is None or sums[model.path].sha256 != fastest.file)


def remember_engine(bundle: Bundle, model: ModelFile, ms: Mapping[str, float]) -> None:
    """Keep that this file's engine is the fastest. `ms`: of each file that was tried. Raises as `remember` does."""
    kept = _read(bundle, ENGINES, _Engines)
    kept.fastest[bundle.manifest.graph] = Engine(bundle.manifest.files[model.path].sha256, dict(ms))
    _write(bundle, ENGINES, kept)


def _key(bundle: Bundle, batch: int) -> str:
    graph = bundle.manifest.graph
    return str(batch) if graph == GRAPH else f"{graph} {batch}"


def _threads(bundle: Bundle) -> _Threads:
    """What is remembered; nothing if that is damaged, of another machine or of more threads than there are CPUs."""
    found = _read(bundle, FILE, _Threads)
    counts = [count for row in found.fastest.values() for count in row.values()]
    return found if all(1 <= count <= usable_cpus() for count in counts) else _Threads(_machine(), {})


def _choices(bundle: Bundle) -> _Choices:
    found = _read(bundle, BACKENDS, _Choices)
    whole = all(1 <= choice.threads <= usable_cpus() for choice in found.fastest.values())
    return found if whole else _Choices(_machine(), {})


def _read(bundle: Bundle, name: str, kind: type[_Kept]) -> _Kept:
    """What is remembered in a file; nothing if that is damaged or of another machine."""
    path = bundle.root / name
    nothing = kind(_machine(), {})
    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            return nothing
        found = read(kind, parse_json(path.read_bytes()), str(path))
    except (OSError, ValueError, InputError):
        return nothing
    return found if found.machine == _machine() else nothing


def _write(bundle: Bundle, name: str, kept: _Threads | _Choices | _Engines) -> None:
    write_atomic(bundle.root / name, json.dumps(asdict(kept), indent=1, sort_keys=True).encode() + b"\n")


def _machine() -> str:
    return f"{cpu_name()}, {usable_cpus()} CPUs"
