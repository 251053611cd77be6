"""What a worker of a cluster must have in common with the machine that a search was started on."""

from __future__ import annotations

import hashlib
import os
import platform
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from compress.stages.job import Machine
from targets.errors import EnvironmentLacks

#: Distributions that results depend on; the key of a stage may name others, which are missed when it runs.
LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy", "scipy", "accelerate", "edgepress")
_PACKAGES = ("compress", "export", "runtime", "targets")


@dataclass(frozen=True)
class Seen:
    """What a process is and sees. `missing`: of the paths that it was asked for; `sees`: it reads in the cache what was
    written there."""

    name: str
    versions: dict[str, str]
    machine: Machine
    sees: bool
    missing: tuple[str, ...]


def look(token: Path, written: str, needed: Sequence[Path]) -> Seen:
    """What this process is and sees. `token`: a file of the cache in which `written` was written elsewhere."""
    text = ""
    with suppress(OSError):
        text = token.read_text(encoding="utf-8")
    missing = tuple(str(path) for path in needed if not path.exists())
    return Seen(socket.gethostname(), versions(), Machine.here(), text == written, missing)


@cache
def versions() -> dict[str, str]:
    """Of Python, of the libraries, and a digest of the code of edgepress in this process; "none" where one is
    missing."""
    found = {"python": ".".join(platform.python_version_tuple()[:2]), **{name: _version(name) for name in LIBRARIES}}
    return {**found, "code of edgepress": _code()}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"


def _code() -> str:
    root, digest = Path(__file__).parents[3], hashlib.sha256()
    for package in _PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            digest.update(os.fsencode(file.relative_to(root)) + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def check_versions(name: str, found: dict[str, str], here: dict[str, str]) -> None:
    """Raises EnvironmentLacks for a worker that would make something else."""
    for library, version in here.items():
        if found.get(library) != version:
            raise EnvironmentLacks(
                f"worker {name} has {library} {found.get(library)}, and {version} is here; install the same versions "
                "on all machines"
            )


def check(seen: Seen, here: Seen, root: Path) -> None:
    """Raises EnvironmentLacks for a worker that has other versions, or does not see the folders."""
    check_versions(seen.name, seen.versions, here.versions)
    if not seen.sees:
        raise EnvironmentLacks(
            f"worker {seen.name} does not see the cache folder {root}; set EDGEPRESS_CACHE to a folder that all "
            "machines mount at the same path"
        )
    if seen.missing:
        raise EnvironmentLacks(
            f"worker {seen.name} does not see {seen.missing[0]}; put it into a folder that all machines mount at the "
            "same path"
        )


def check_alike(timing: Sequence[Seen]) -> Machine:
    """The machine of these. Raises EnvironmentLacks where they differ, as their times could not be compared."""
    first, *others = timing
    for other in others:
        if other.machine != first.machine:
            raise EnvironmentLacks(
                f"the machines for timings differ: {first.name} is {first.machine}, {other.name} is {other.machine}; "
                "mark machines of one kind alone"
            )
    return first.machine
