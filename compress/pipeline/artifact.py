"""An artifact: a finished folder of files whose type says what can be read from it."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from compress.pipeline.digest import digest_of
from compress.pipeline.errors import GraphError
from runtime.files import sha256_of


@dataclass(frozen=True)
class Artifact:
    """A finished, immutable folder of files. A subclass is a type of artifact and adds typed read methods only.

    `digest` covers the type's name, the relative paths and the contents: equal digests mean equal artifacts.
    """

    path: Path
    digest: str

    @classmethod
    def of(cls, folder: Path) -> Self:
        """The artifact that `folder` already holds, digested here and now."""
        return cls(folder, digest_artifact(cls.__name__, measure_folder(folder)))


@dataclass(frozen=True)
class FileSeal:
    """What a file must still be when it is read again."""

    sha256: str
    bytes: int


def digest_artifact(type_name: str, files: Mapping[str, FileSeal]) -> str:
    """Digest of (type name, relative paths, contents)."""
    return digest_of({"type": type_name, "files": {name: seal.sha256 for name, seal in files.items()}})


def measure_folder(folder: Path) -> dict[str, FileSeal]:
    """Relative path -> seal of every file below `folder`. Raises GraphError for links and other special files."""
    return {name: FileSeal(sha256_of(path), path.stat().st_size) for name, path in list_files(folder).items()}


def list_files(folder: Path) -> dict[str, Path]:
    """Relative path (with `/`) -> path of every file below `folder`, sorted.

    Raises GraphError for anything but plain files and folders: what a link points to is not the artifact's own.
    """
    found: dict[str, Path] = {}
    for parent, folders, names in os.walk(folder, onerror=_raise):
        for name in folders + names:
            path = Path(parent, name)
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                found[path.relative_to(folder).as_posix()] = path
            elif not stat.S_ISDIR(mode):
                raise GraphError(f"{path} is not a plain file: an artifact holds plain files only, so copy it")
    return dict(sorted(found.items()))


def _raise(error: OSError) -> None:
    raise error
