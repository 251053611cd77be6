"""Files that remember what was found out before. They only save time: one that is missing, damaged or cannot be written
changes nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from runtime.files import write_atomic
from targets.errors import EnvironmentLacks, InputError


def read_memo(path: Path) -> dict[str, Any]:
    """What was written; empty when there is no file or its own digest, on the first line, does not fit."""
    try:
        seal, _, body = path.read_bytes().partition(b"\n")
    except OSError:
        return {}
    if hashlib.sha256(body).hexdigest().encode() != seal:
        return {}
    written: dict[str, Any] = json.loads(body)
    return written


def write_memo(path: Path, value: Mapping[str, Any]) -> None:
    """Replace the file, whole or not at all."""
    body = json.dumps(value, separators=(",", ":")).encode()
    with suppress(InputError, EnvironmentLacks):
        write_atomic(path, hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
