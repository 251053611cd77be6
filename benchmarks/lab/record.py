"""How results are kept: each with the command that made it, the commit, versions, hardware and seed.

The schema is `PROVENANCE`; a test holds every file of `benchmarks/results` to it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from runtime.files import write_atomic
from targets.errors import InputError

ROOT = Path(__file__).parents[2]
LIBRARIES = ("torch", "onnx", "onnxruntime", "numpy", "scipy", "transformers", "tokenizers")
#: `note` says what is missing in results that are older than this schema; the others have everything.
PROVENANCE = {
    "type": "object",
    "required": ["command", "commit", "versions", "hardware", "seed"],
    "additionalProperties": False,
    "properties": {
        "command": {"type": ["string", "null"]},
        "commit": {"type": "string", "pattern": "^[0-9a-f]{7,40}$"},
        "versions": {"type": "object", "additionalProperties": {"type": "string"}},
        "hardware": {"type": "object", "additionalProperties": {"type": ["string", "integer"]}},
        "seed": {"type": ["integer", "null"]},
        "note": {"type": "string"},
    },
}


@cache
def surroundings() -> dict[str, str]:
    """What a result depends on besides its arguments, as rows that go with their measurements have it."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {"gpu": gpu, "cpu": _cpu(), "python": platform.python_version(), "torch": torch.__version__}


def provenance(content: Mapping[str, Any]) -> dict[str, Any]:
    """Where a result comes from; its command and seed are its own. Without git, EDGEPRESS_COMMIT says the commit."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "command": content.get("command") or " ".join(["python", "-m", *sys.argv]),
        "commit": os.environ.get("EDGEPRESS_COMMIT") or _commit(),
        "versions": versions,
        "hardware": {"cpu": _cpu(), **({"gpu": gpu} if (gpu := content.get("gpu")) else {})},
        "seed": content.get("seed", 0),
    }


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short=9", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write a result. One that is only added to keeps its provenance."""
    write_json(path, {"provenance": provenance(content), **content})


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def command(name: str) -> str:
    """The command line without folders, to be put into a result. It is run from the root of the repository."""
    return " ".join(["python", "-m", "benchmarks", name, *(one.rsplit("/", 1)[-1] for one in sys.argv[1:])])


def write_json(path: Path, content: Any) -> None:
    """Write a file of a measurement that is still going on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(content, indent=1) + "\n").encode())


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether this process is to write the file: it is still empty and no other process is at it. A claim ends with
    the process, so a row whose process was killed is free again."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield path.stat().st_size == 0


def known_rows(results: Sequence[Path], conditions: Mapping[str, Any], settings: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of earlier results. Raises InputError if one was measured under other settings than `conditions`."""
    rows = []
    for result in results:
        document = json.loads(result.read_text())
        for name in settings:
            if not _agree(document[name], conditions[name]):
                raise InputError(f"{result} was measured with {name} {document[name]}; this run has {conditions[name]}")
        rows += document["rows"]
    return rows


def _agree(old: Any, new: Any) -> bool:
    """Whether two settings are equal; options that one of them does not know are left out."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return all(old[name] == new[name] for name in old.keys() & new.keys())
    return bool(old == new)
