"""A training state on disk, so that healing goes on where it was stopped."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import torch

from runtime.files import write_atomic

#: Seconds between checkpoints. Resuming is exact, so when they are taken does not change the result.
INTERVAL = 15.0


class Checkpoints:
    """The last state of a training run, in one file of a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / f"{name}.pt"
        self._saved_at = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The saved state, or None if there is none."""
        if not self._path.is_file():
            return None
        state: dict[str, Any] = torch.load(self._path, map_location="cpu", weights_only=True)
        return state

    def due(self) -> bool:
        """Whether it is time for the next one."""
        return time.monotonic() - self._saved_at >= INTERVAL

    def save(self, state: dict[str, Any]) -> None:
        """Replace the saved state."""
        stream = io.BytesIO()
        torch.save(state, stream)
        write_atomic(self._path, stream.getvalue())
        self._saved_at = time.monotonic()
