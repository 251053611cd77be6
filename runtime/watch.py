"""Process files as they appear in a folder, so that a crash loses no input and repeats none.

Each result is one line of a JSON Lines file, on the disk before the next batch is read. After a crash the complete
lines tell what is done, and a torn last line is cut off.
"""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from runtime.files import explain, parse_json, sync
from runtime.images.reading import is_systems
from targets.errors import EdgepressError, InputError, one_line

POLL = 0.2  # seconds between two looks at the folder
PATIENCE = 3.0  # seconds that a file must lie still before it counts as damaged, not as half written

Result = dict[str, object]


@dataclass(frozen=True)
class Input:
    """A file as it was seen: another size or time makes it another input."""

    name: str
    size: int
    mtime_ns: int


class ResultLog:
    """An append-only JSON Lines file of results."""

    def __init__(self, stream: IO[bytes], done: set[Input]) -> None:
        self._stream = stream
        self.done = done

    def append(self, results: Sequence[tuple[Input, Result]]) -> None:
        """Put one line per input on the disk. Raises InputError or EnvironmentLacks if that fails."""
        lines = [{"input": one.name, "bytes": one.size, "mtime_ns": one.mtime_ns, **result} for one, result in results]
        try:
            self._stream.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
            self._stream.flush()
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise explain(error, Path(self._stream.name)) from error
        self.done.update(one for one, _ in results)


@contextmanager
def open_log(path: Path) -> Iterator[ResultLog]:
    """Open or resume a log: reads its complete lines, cuts off a torn last one, and keeps other writers out.

    Raises InputError if another process writes it or a complete line is not a result.
    """
    import fcntl

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("a+b")
    except OSError as error:
        raise explain(error, path) from error
    try:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"another process writes results to {path}; stop it or name another file") from error
        sync(path.parent)
        yield ResultLog(stream, _read_back(stream, path))
    finally:
        with suppress(OSError):  # closing tries once more to write what `append` said could not be written
            stream.close()


def _read_back(stream: IO[bytes], path: Path) -> set[Input]:
    """What the complete lines tell is done; a torn last line is cut off."""
    done = set()
    whole = 0
    stream.seek(0)
    for at, line in enumerate(stream, 1):
        if not line.endswith(b"\n"):
            stream.truncate(whole)
            break
        done.add(_parse(line, f"{path}:{at}"))
        whole += len(line)
    return done


def watch(
    folder: Path,
    suffixes: Sequence[str],
    log: ResultLog,
    process: Callable[[Sequence[Path]], Sequence[Result | EdgepressError]],
    batch: int,
    once: bool,
) -> int:
    """Process every file below `folder` that the log lacks, in batches, as files appear. Returns how many failed.

    A file is taken when two looks see the same size and time. If it then cannot be read, it is tried again until it has
    lain still for a while, and only then logged as an error. `once` returns when nothing is left to do.
    """
    failed = 0
    before: set[Input] = set()
    since: dict[Input, float] = {}
    told: set[str] = set()

    def tell_once(note: str) -> None:
        if note not in told:
            told.add(note)
            tell(note)

    while True:
        seen = [one for one in listing(folder, suffixes, tell_once) if one not in log.done]
        ready = [one for one in seen if one in before]
        before = set(seen)
        since = {one: since.get(one, time.monotonic()) for one in seen}
        for start in range(0, len(ready), batch):
            some = ready[start : start + batch]
            results = process([folder / one.name for one in some])
            lines: list[tuple[Input, Result]] = []
            for one, result in zip(some, results, strict=True):
                if look(folder, one.name) != one:
                    continue  # written to meanwhile: what was read may be half of it
                if not isinstance(result, EdgepressError):
                    lines.append((one, result))
                elif time.monotonic() - since[one] > PATIENCE:
                    lines.append((one, {"error": str(result)}))
                    failed += 1
            if lines:
                log.append(lines)
        if once and not any(one not in log.done for one in listing(folder, suffixes, tell_once)):
            return failed
        time.sleep(POLL)


def tell(note: str) -> None:
    """One line on standard error."""
    print(f"note: {one_line(note)}", file=sys.stderr, flush=True)


def listing(folder: Path, suffixes: Sequence[str], note: Callable[[str], None]) -> list[Input]:
    """Files below the folder with one of the suffixes, oldest first; hidden ones and those of systems are left out.

    `note` gets the folders in it that are passed over. Raises InputError.
    """
    if not folder.is_dir():
        raise InputError(f"no folder {folder} to watch")

    def unlisted(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise InputError(f"cannot list {folder}: {error.strerror}; check its permissions") from error
        if not isinstance(error, FileNotFoundError):  # gone meanwhile
            note(f"{error.filename} is passed over: it cannot be listed ({error.strerror})")

    found = []
    for place, folders, files in os.walk(folder, onerror=unlisted):
        folders[:] = [name for name in folders if not is_systems(name)]
        for name in folders:
            if Path(place, name).is_symlink():
                note(f"{Path(place, name)} is passed over: it is a link to a folder; watch that folder itself")
        for name in files:
            if name.lower().endswith(tuple(suffixes)) and not is_systems(name):
                path = Path(place, name)
                seen = look(folder, path.relative_to(folder).as_posix())
                if seen is not None:
                    found.append(seen)
                elif os.path.lexists(path):
                    note(f"{path} is passed over: it is not a file, or a link to what is not there")
    return sorted(found, key=lambda one: (one.mtime_ns, one.name))


def look(folder: Path, name: str) -> Input | None:
    """The file as it is now, or None if it is gone or no regular file: a pipe would be waited on for ever."""
    try:
        state = (folder / name).stat()
    except OSError:
        return None
    return Input(name, state.st_size, state.st_mtime_ns) if stat.S_ISREG(state.st_mode) else None


def _parse(line: bytes, where: str) -> Input:
    try:
        record = parse_json(line)
        return Input(str(record["input"]), int(record["bytes"]), int(record["mtime_ns"]))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{where}: not a result line; name another file for the results") from error
