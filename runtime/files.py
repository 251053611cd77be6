"""Files that are whole or absent: atomic writes and content digests."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from targets.errors import EnvironmentLacks, InputError

_CHUNK = 1 << 20


def user_path(text: str) -> Path:
    """A path as the user wrote it, `~` and `~name` taken for home folders. Raises InputError where there is none."""
    try:
        return possible(Path(text).expanduser())
    except RuntimeError as error:
        raise InputError(f"{text}: there is no such home folder; give the whole path") from error


def possible(path: Path) -> Path:
    """The path. Raises InputError for one that no file can have: a name too long, or with what is not a character."""
    try:
        path.lstat()
    except ValueError as error:
        raise InputError(f"{str(path)[:80]!r}: no file can be called so; check the path") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(f"{str(path)[:80]} ...: the name is too long for a file; check the path") from error
    return path


def check_no_pipe(path: Path) -> None:
    """Raises InputError for a named pipe, which would be waited on for ever. What the shell makes of <(...) is none."""
    with suppress(OSError, ValueError):  # reading it will say so
        if stat.S_ISFIFO(path.stat().st_mode) and path.parent.name != "fd":
            raise InputError(f"{path} is a pipe; give a file")


def cache_root() -> Path:
    """$EDGEPRESS_CACHE, or ~/.cache/edgepress. Raises InputError where the user has no home and named no cache."""
    given = os.environ.get("EDGEPRESS_CACHE")
    if given:
        return user_path(given)
    try:
        return Path.home() / ".cache" / "edgepress"
    except RuntimeError as error:
        raise InputError("this user has no home folder for the cache; set EDGEPRESS_CACHE to a folder") from error


def parse_json(data: bytes | str) -> Any:
    """JSON from a file that anyone may have written. Raises ValueError for what is none, or is nested too deep."""
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of the file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` so that `path` holds either its old content or all of the new (temp file, fsync, rename).

    A link, a device or a pipe is written to, never replaced. Raises InputError if the place cannot be written,
    EnvironmentLacks if the disk is full.
    """
    temporary: Path | None = None
    try:
        if is_special(path):
            write_through(path, data)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise explain(error, path) from error


def is_special(path: Path) -> bool:
    """Whether something other than a regular file or a folder is there: a link, a device, a pipe."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def write_through(path: Path, data: bytes, append: bool = False) -> None:
    """Write into what is at `path`, as a shell's `>` or `>>` does. What is standard output by another name is written
    by way of it, behind what was printed. Raises OSError."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        if path.exists() and os.path.samestat(path.stat(), os.fstat(number)):
            stream.flush()
            with os.fdopen(os.dup(number), "wb") as file:
                file.write(data)
            return
    with path.open("ab" if append else "wb") as file:
        file.write(data)


def sync(path: Path) -> None:
    """Flush one file, or the names in one folder, to the disk, so that they survive a power cut. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_writable(folder: Path) -> None:
    """Whether files can be put into a folder, before the work that fills it. Raises as `write_atomic` does."""
    probe = folder / ".edgepress"
    write_atomic(probe, b"")
    probe.unlink()


def explain(error: OSError, path: Path) -> InputError | EnvironmentLacks:
    """The error to raise for a failed write at `path`: a full disk is the environment's, the rest the user's."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return EnvironmentLacks(f"no space left on the disk that holds {path}; free some and run again")
    cause = error.strerror or str(error).rstrip(".")  # an operation that a stream has not is an OSError without one
    if _in_cache(path):
        advice = "set EDGEPRESS_CACHE to a folder that can be written, or give compress.run --no-cache"
        return InputError(f"cannot write the cache {path}: {cause}; {advice}")
    return InputError(f"cannot write {path}: {cause}; give a place that can be written")


def _in_cache(path: Path) -> bool:
    try:
        return path.absolute().is_relative_to(cache_root().absolute())
    except InputError:
        return False
