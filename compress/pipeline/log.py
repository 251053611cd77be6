"""The events of a run as a file with one JSON object a line."""

from __future__ import annotations

import datetime
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from compress.pipeline.disk import writing
from compress.pipeline.events import Event, RunFinished, StageWorking


class JsonLog:
    """A sink that appends `{"event": ..., "time": ..., <fields>}` a line, each on disk before the next event.

    A run that was killed and its resumption are in the same file, one after the other.
    Raises InputError if `path` cannot be written, EnvironmentLacks if its disk is full.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: IO[str] | None = None
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("a").close()

    def __call__(self, event: Event) -> None:
        if isinstance(event, StageWorking):
            return  # says nothing that a reader of the log would miss
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        row = {"event": type(event).__name__, "time": now, **asdict(event)}
        with writing(self._path):
            if self._stream is None:
                self._stream = self._path.open("a", encoding="utf-8")
            self._stream.write(json.dumps(_finite(row), allow_nan=False) + "\n")
            self._stream.flush()
            if isinstance(event, RunFinished):
                self._stream.close()
                self._stream = None


def _finite(value: Any) -> Any:
    """`value` with NaN and infinities as text, which JSON has no numbers for."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
