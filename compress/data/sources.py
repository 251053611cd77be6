"""Where images come from: a folder, a zip or a pack of image files (here), or the arrays of an npz (`arrays.py`)."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from compress.data.packed import SUFFIX as PACKED
from compress.data.packed import PackedJpegs
from runtime.images import image
from targets.errors import InputError

SUFFIXES = tuple(suffix for suffix in image.SUFFIXES if suffix != ".npy")
Part = Literal["evaluation", "healing"]

_EVALUATION = ("test", "val", "validation")  # the first that exists
_HEALING = "train"
_TAIL = 4096  # bytes


class Source(Protocol):
    """A list of labelled images, and what it says about them itself."""

    location: Path
    names: Sequence[str]  # one per image, for messages and reports
    labels: np.ndarray  # int64 [S]
    class_names: tuple[str, ...]
    named: bool  # the class names are the data's own, not made up from the labels
    parts: dict[Part, np.ndarray] | None  # ascending indices by what they are for, if the data says so

    def image(self, index: int) -> np.ndarray:
        """The image as uint8 [H, W, C]. Raises InputError or OSError if it cannot be read."""
        ...

    def fingerprint(self, index: int) -> bytes:
        """Cheap; equal for equal images, and nearly always different for different ones."""
        ...


class _Folder:
    """The files below a folder, links followed."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def listing(self) -> tuple[list[str], list[str]]:
        """Relative paths of the files, and of the folders."""
        files: list[str] = []
        folders: list[str] = []
        for folder, below, names in os.walk(self.root, followlinks=True, onerror=_refuse):
            here = Path(folder)
            if here.is_symlink() and here.parent.resolve().is_relative_to(here.resolve()):
                raise InputError(f"the link {folder} leads back to a folder that holds it; remove it")
            files += [Path(folder, name).relative_to(self.root).as_posix() for name in names]
            folders += [Path(folder, name).relative_to(self.root).as_posix() for name in below]
        return files, folders

    def image(self, path: str) -> np.ndarray:
        return image.read_image(self.root / path)

    def fingerprint(self, path: str) -> bytes:
        try:
            with (self.root / path).open("rb") as stream:
                size = stream.seek(0, os.SEEK_END)
                stream.seek(max(0, size - _TAIL))
                return b"%d:" % size + stream.read()
        except OSError:  # decoding it will say so
            return os.fsencode(path)


class _Zip:
    """The members of a zip; nothing is extracted to disk."""

    def __init__(self, path: Path) -> None:
        try:
            self.archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise InputError(f"{path} is no readable zip ({error}); give it whole") from error

    def listing(self) -> tuple[list[str], list[str]]:
        names = self.archive.namelist()
        return [n for n in names if not n.endswith("/")], [n.rstrip("/") for n in names if n.endswith("/")]

    def image(self, path: str) -> np.ndarray:
        try:
            data = self.archive.read(path)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise InputError(f"{path}: damaged or encrypted in the zip: {error}") from error
        return image.decode_image(data, path)

    def fingerprint(self, path: str) -> bytes:
        info = self.archive.getinfo(path)
        return b"%d:%d" % (info.file_size, info.CRC)


def _store(location: Path) -> _Folder | _Zip | PackedJpegs:
    if location.is_dir():
        return _Folder(location)
    return PackedJpegs(location) if location.suffix.lower() == PACKED else _Zip(location)


class ImageFiles:
    """`<class>/*.jpg`, or `train/<class>/*.jpg` with `test/` or `val/` beside it, in a folder, a zip or a pack."""

    named = True

    def __init__(self, location: Path) -> None:
        """Raises InputError for a place without classes of images."""
        self.location = location
        self._store = _store(location)
        files, folders = (_visible(paths) for paths in self._store.listing())
        images = [path for path in files if path[-1].lower().endswith(SUFFIXES)]
        if not images:
            raise InputError(f"{location} holds no images (looked for {' '.join(SUFFIXES)}); name another place")
        depth = _wrapper_depth(images)
        evaluation, healing = _find_parts(images, depth)
        if evaluation and healing:
            images = [path for path in images if path[depth] in (evaluation, healing)]
            folders = [path for path in folders if path[depth : depth + 1] in ((evaluation,), (healing,))]
            depth += 1
        images = sorted(path for path in images if len(path) > depth + 1)
        if not images:
            raise InputError(f"{location} holds images but no classes; put each class's images into its own folder")
        self.class_names = _class_order({path[depth] for path in images})
        wrapper = images[0][: depth - 1 if evaluation and healing else depth]
        empty = {p[depth] for p in folders if len(p) > depth and p[: len(wrapper)] == wrapper}
        empty -= set(self.class_names)
        if empty:
            raise InputError(
                f"{location} has class folders without images: {', '.join(sorted(empty))}; remove or fill them"
            )
        number = {name: index for index, name in enumerate(self.class_names)}
        self.names: Sequence[str] = ["/".join(path) for path in images]
        self.labels = np.array([number[path[depth]] for path in images], np.int64)
        self.parts: dict[Part, np.ndarray] | None = None
        if evaluation and healing:
            top = np.array([path[depth - 1] for path in images])
            self.parts = {
                "evaluation": np.flatnonzero(top == evaluation),
                "healing": np.flatnonzero(top == healing),
            }

    def image(self, index: int) -> np.ndarray:
        return self._store.image(self.names[index])

    def fingerprint(self, index: int) -> bytes:
        return self._store.fingerprint(self.names[index])


def _refuse(error: OSError) -> None:
    raise InputError(f"cannot read {error.filename}: {error.strerror}; check the path and its permissions")


def _visible(paths: Iterable[str]) -> list[tuple[str, ...]]:
    """The paths in pieces, without hidden ones and the resource forks that macOS puts into zips."""
    pieces = (tuple(path.split("/")) for path in paths)
    return [p for p in pieces if not any(piece.startswith(".") or piece == "__MACOSX" for piece in p)]


def _wrapper_depth(images: Sequence[tuple[str, ...]]) -> int:
    """How many folders merely wrap the classes: 1, `photos/`, in `photos/cat/1.jpg, photos/dog/2.jpg`."""
    depth = 0
    while min(map(len, images)) > depth + 2 and len({path[depth] for path in images}) == 1:
        depth += 1
    return depth


def _find_parts(images: Sequence[tuple[str, ...]], depth: int) -> tuple[str | None, str | None]:
    """The folders that are for evaluation and for healing: those named so that hold classes, not images."""
    shallowest: dict[str, int] = {}
    for path in images:
        shallowest[path[depth]] = min(len(path), shallowest.get(path[depth], len(path)))
    parts = {name for name, length in shallowest.items() if length > depth + 2}
    evaluation = next((name for name in _EVALUATION if name in parts), None)
    return evaluation, _HEALING if _HEALING in parts else None


def _class_order(names: set[str]) -> tuple[str, ...]:
    """Sorted; numbers by their value, so that 10 comes after 9."""
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))
