"""Locks between processes: held by a file, released by the system when the holder dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def locked(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock that `path` names; call `on_wait` first if another holds it. Raises OSError."""
    handle = _try(path)
    if handle is None:
        on_wait()
    while handle is None:
        handle = _take(path, fcntl.LOCK_EX)
    try:
        yield
    finally:
        _release(path, handle)


@contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock if nobody else does, and say whether it is held. Raises OSError."""
    handle = _try(path)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            _release(path, handle)


def _try(path: Path) -> int | None:
    try:
        return _take(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None


def _take(path: Path, how: int) -> int | None:
    """The locked handle, or None if the file was removed by its last holder meanwhile: then try again."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, how)
        if _is_at(handle, path):
            return handle
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _release(path: Path, handle: int) -> None:
    with suppress(OSError):  # a lock file that stays behind is free to take
        path.unlink()
    os.close(handle)
