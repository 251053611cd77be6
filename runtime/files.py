"""Files that are whole or absent: atomic writes and content digests."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from pathlib import Path

from targets.errors import EnvironmentLacks, InputError

_CHUNK = 1 << 20


def user_path(text: str) -> Path:
    """A path as the user wrote it, `~` and `~name` taken for home folders. Raises InputError where there is none."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise InputError(f"{text}: there is no such home folder; give the whole path") from error


def cache_root() -> Path:
    """$EDGEPRESS_CACHE, or ~/.cache/edgepress. Raises InputError where the user has no home and named no cache."""
    given = os.environ.get("EDGEPRESS_CACHE")
    if given:
        return user_path(given)
    try:
        return Path.home() / ".cache" / "edgepress"
    except RuntimeError as error:
        raise InputError("this user has no home folder for the cache; set EDGEPRESS_CACHE to a folder") from error


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of the file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` so that `path` holds either its old content or all of the new (temp file, fsync, rename).

    Raises InputError if the place cannot be written, EnvironmentLacks if the disk is full.
    """
    temporary: Path | None = None
    try:
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


def check_writable(folder: Path) -> None:
    """Whether files can be put into a folder, before the work that fills it. Raises as `write_atomic` does."""
    probe = folder / ".edgepress"
    write_atomic(probe, b"")
    probe.unlink()


def explain(error: OSError, path: Path) -> InputError | EnvironmentLacks:
    """The error to raise for a failed write at `path`: a full disk is the environment's, the rest the user's."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return EnvironmentLacks(f"no space left on the disk that holds {path}; free some and run again")
    return InputError(f"cannot write {path}: {error.strerror}; give a place that can be written")
