"""Where image files lie: a folder, or a zip whose members are never extracted to disk."""

from __future__ import annotations

import functools
import os
import stat
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np

from runtime.faults import is_plain, told
from runtime.images import reading
from targets.errors import InputError

#: Clocks of file systems tick coarsely: a file this fresh, in nanoseconds, may change with no new time.
_SETTLE = 1_000_000_000


class Store(Protocol):
    """Files by name."""

    def listing(self) -> tuple[list[str], list[str]]:
        """Paths of the files, and of the folders. Raises InputError."""
        ...

    def read(self, name: str) -> bytes:
        """The file's content. Raises InputError."""
        ...

    def image(self, name: str) -> np.ndarray:
        """uint8 [H, W, C]. Raises InputError if it cannot be read."""
        ...

    def stamp(self, name: str) -> str | None:
        """What changes whenever the file's content does, without reading it; None where nothing is sure to."""
        ...


class Folder:
    """The files below a folder, links followed."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def listing(self) -> tuple[list[str], list[str]]:
        files: list[str] = []
        folders: list[str] = []
        for folder, below, names in os.walk(self.root, followlinks=True, onerror=_refuse):
            here = Path(folder)
            if here.is_symlink() and here.parent.resolve().is_relative_to(here.resolve()):
                raise InputError(f"the link {folder} leads back to a folder that holds it; remove it")
            files += [Path(folder, name).relative_to(self.root).as_posix() for name in names]
            folders += [Path(folder, name).relative_to(self.root).as_posix() for name in below]
        return files, folders

    def read(self, name: str) -> bytes:
        return reading.read_bytes(self.root / name)

    def image(self, name: str) -> np.ndarray:
        return reading.read_image(self.root / name)

    def stamp(self, name: str) -> str | None:
        return stamp_of(self.root / name)


class Zip:
    """The members of a zip."""

    def __init__(self, path: Path) -> None:
        """Raises InputError for what is not a zip."""
        with told(f"{path} is not a readable zip", "give it whole"):
            self.archive = zipfile.ZipFile(path)
        self._stamp = stamp_of(path)

    def listing(self) -> tuple[list[str], list[str]]:
        names = self.archive.namelist()
        return [n for n in names if not n.endswith("/")], [n.rstrip("/") for n in names if n.endswith("/")]

    def read(self, name: str) -> bytes:
        with told(f"{name}: damaged or encrypted in the zip", "pack it again"):
            member = self.archive.getinfo(name)
            size = member.file_size
            if size > reading.MAX_BYTES:
                raise InputError(f"{name}: {size} bytes in the zip, a single file has at most {reading.MAX_BYTES}")
            if not is_plain(member):
                raise InputError(f"{name}: packed by an unusual method; pack it again with deflate")
            with self.archive.open(member) as stream:
                return stream.read(size + 1)  # a number, or a member that lies about its size is unpacked whole

    def image(self, name: str) -> np.ndarray:
        return reading.decode_image(self.read(name), name)

    def stamp(self, name: str) -> str | None:
        return f"{self._stamp} {name}" if self._stamp else None


def _refuse(error: OSError) -> None:
    raise InputError(f"cannot read {error.filename}: {error.strerror}; check the path and its permissions")


def stamp_of(path: Path) -> str | None:
    """What the file system says of a file; None for one that is gone, or so fresh that its times tell nothing yet."""
    try:
        info = path.stat()
    except OSError:  # reading it will say so
        return None
    if not stat.S_ISREG(info.st_mode) or max(info.st_mtime_ns, info.st_ctime_ns) > time.time_ns() - _SETTLE:
        return None
    return f"{path} {info.st_size} {info.st_mtime_ns} {info.st_ctime_ns} {info.st_ino} {info.st_dev}"


@functools.cache
def threads() -> ThreadPoolExecutor:
    """Those in which images are read and decoded."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="decode")
