"""A training state on disk, so that healing goes on where it was stopped."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from runtime.files import write_atomic

#: Seconds between checkpoints. Resuming is exact, so when they are taken does not change the result.
INTERVAL = 15.0
_DIGEST = hashlib.sha256().digest_size


class Checkpoints:
    """The last state of a training run, in one file of a folder: the SHA-256 of the rest, then the state.

    `log` is called when a file is damaged: that phase then starts again, and ends with the same model.
    """

    def __init__(self, folder: Path, name: str, log: Callable[[str], None]) -> None:
        self._path = folder / f"{name}.pt"
        self._log = log
        self._saved_at = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The saved state, or None if there is none that is whole."""
        if not self._path.is_file():
            return None
        content = self._path.read_bytes()
        digest, state = content[:_DIGEST], content[_DIGEST:]
        if hashlib.sha256(state).digest() != digest:
            self._log(f"the checkpoint {self._path.name} is damaged; this phase of healing starts again")
            return None
        known: dict[str, Any] = torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)
        return known

    def due(self) -> bool:
        """Whether it is time for the next one."""
        return time.monotonic() - self._saved_at >= INTERVAL

    def save(self, state: dict[str, Any]) -> None:
        """Replace the saved state."""
        stream = io.BytesIO()
        torch.save(state, stream)
        content = stream.getvalue()
        write_atomic(self._path, hashlib.sha256(content).digest() + content)
        self._saved_at = time.monotonic()
