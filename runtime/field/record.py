"""A file of JSON lines that does not grow beyond a size: a full one becomes FILE.1, in place of the one before."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from runtime.files import explain, parse_json
from targets.errors import InputError

_MOST = 1 << 20  # bytes of each of the two files
_LONGEST = 1 << 16  # bytes of a line


class Record:
    """Appends to `path`; every line stands for itself, and a torn last one counts as not written."""

    def __init__(self, path: Path, most: int = _MOST) -> None:
        """Raises InputError for a file that holds something else, or a place that cannot be written."""
        self.path, self._most = path, most
        self.last = self._read_last()

    def append(self, line: dict[str, Any]) -> None:
        """Add a line. Raises InputError, or EnvironmentLacks if the disk is full."""
        data = json.dumps(line).encode() + b"\n"
        try:
            with self.path.open("ab") as stream:
                stream.write(data)
                full = stream.tell() >= self._most
            if full:
                os.replace(self.path, self.path.with_name(f"{self.path.name}.1"))  # noqa: PTH105 - both names are plain
        except OSError as error:
            raise explain(error, self.path) from error
        self.last = line

    def _read_last(self) -> dict[str, Any] | None:
        """The last whole line, of the older file if the newer one has none; a torn one is cut off."""
        for path in (self.path, self.path.with_name(f"{self.path.name}.1")):
            try:
                if not path.exists():
                    continue
                with path.open("r+b") as stream:
                    end = stream.seek(0, os.SEEK_END)
                    stream.seek(max(0, end - _LONGEST))
                    tail = stream.read()
                    whole = tail[: tail.rfind(b"\n") + 1]
                    stream.truncate(end - len(tail) + len(whole))
            except OSError as error:
                raise explain(error, path) from error
            if whole:
                return self._parsed(whole.splitlines()[-1], path)
        return None

    @staticmethod
    def _parsed(line: bytes, path: Path) -> dict[str, Any]:
        try:
            found = parse_json(line)
        except ValueError as error:
            raise InputError(f"{path}: its last line is not JSON; name another file") from error
        if not isinstance(found, dict):
            raise InputError(f"{path}: its last line is not a JSON object; name another file")
        return found
