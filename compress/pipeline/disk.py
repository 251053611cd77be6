"""Folders that survive a power cut, and full disks distinguished from other failures."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.files import explain, sync
from targets.errors import EdgepressError, EnvironmentLacks

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NEARLY_NOTHING = 1 << 20  # bytes


def sync_tree(folder: Path) -> None:
    """Flush every file and folder below `folder`, and itself, to the disk."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(Path(parent, name))
        sync(Path(parent))


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turn an OSError into InputError (`place` cannot be written) or EnvironmentLacks (its disk is full)."""
    try:
        yield
    except OSError as error:
        raise explain(error, place) from error


@contextmanager
def full_disk_named(place: Path) -> Iterator[None]:
    """Turn any error that a full disk caused into EnvironmentLacks; let every other error pass as it is.

    Libraries hide it well: numpy drops the error number, torch raises a RuntimeError about file positions, and
    libraries in Rust keep only the system's text. So the text counts, and so does any error on a disk that is full
    at that moment.
    """
    try:
        yield
    except EdgepressError:
        raise
    except Exception as error:
        if not _tells_of_full_disk(error) and shutil.disk_usage(place).free >= _NEARLY_NOTHING:
            raise
        where = getattr(error, "filename", None) or place
        raise EnvironmentLacks(
            f"no space left on the disk that holds {where}; free some and run again ({describe(error)})"
        ) from error


def describe(error: BaseException) -> str:
    """The error on one line; its type too unless it was written for the user."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    line = str(error).strip().partition("\n")[0]
    if isinstance(error, EdgepressError):
        return line
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def _tells_of_full_disk(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if any(os.strerror(number) in str(error) for number in _FULL):
            return True
        error = error.__cause__ or error.__context__
    return False
