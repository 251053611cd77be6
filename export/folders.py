"""Folders that are replaced as a whole: whoever looks sees the old one or the new one, whenever the power goes."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.files import explain, sync


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """A new folder to fill. When the block ends well, it takes the place of `folder` in one step; otherwise it is
    removed. What killed processes left of such folders is removed too.

    Raises InputError if the place cannot be written, EnvironmentLacks if its disk is full.
    """
    new = _temporary(folder)
    try:
        _clear_remains(folder)
        new.mkdir(parents=True)
        yield new
        _put_in_place(new, folder)
    except OSError as error:
        raise explain(error, folder) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file to a new place, folders around it included, and flush it to the disk. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)
        writer.flush()
        os.fsync(writer.fileno())


def _temporary(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.{os.getpid()}.new"


def _clear_remains(folder: Path) -> None:
    """Remove what killed runs left beside the folder."""
    if not folder.parent.is_dir():
        return
    pattern = re.compile(rf"\.{re.escape(folder.name)}\.(\d+)\.(new|old)")
    for path in folder.parent.iterdir():
        match = pattern.fullmatch(path.name)
        if match and (int(match[1]) == os.getpid() or not _alive(int(match[1]))):
            shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _put_in_place(new: Path, folder: Path) -> None:
    """Rename; where a folder is already, exchange the two, so that at no moment there is none or half of one."""
    if not folder.exists():
        new.rename(folder)
    elif not _exchange(new, folder):
        old = new.with_suffix(".old")  # this system cannot exchange: for a moment there is none, never half a one
        folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    sync(folder.parent)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one step with Linux' renameat2. False if the system or the file system has no such call."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if call(here, os.fsencode(first), here, os.fsencode(second), swap) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(second))
