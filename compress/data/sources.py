"""Labelled samples: files in a folder or a zip, images also in a pack (those in the arrays of an npz: `arrays.py`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from compress.data.classes import in_order, listed, plain, shortened
from compress.data.packed import SUFFIX as PACKED
from compress.data.packed import PackedJpegs
from compress.data.seen import fingerprint
from compress.data.splits import EVALUATED, TRAIN, part_named
from compress.data.stores import Folder, Store, Zip
from runtime.images import reading
from targets.errors import InputError

SUFFIXES = tuple(suffix for suffix in reading.SUFFIXES if suffix != ".npy")
Part = Literal["evaluation", "healing"]
Paths = Sequence[tuple[str, ...]]


class Source(Protocol):
    """A list of labelled samples, and what it says about them itself."""

    location: Path
    noun: str  # what the samples are, in the plural
    names: Sequence[str]  # one per sample, for messages and reports
    labels: np.ndarray  # int64 [S]
    class_names: tuple[str, ...]
    named: bool  # the class names are the data's own, not made up from the labels
    parts: dict[Part, np.ndarray] | None  # ascending indices by what they are for, if the data says so
    notes: tuple[str, ...]  # what the user should know of them
    boxes: Sequence[np.ndarray] | None  # per image float32 [G, 5]: class, centre, width and height as shares of it
    masks: Sequence[np.ndarray] | None  # per image whole numbers [H, W]: the class of each pixel

    def decoded(self, index: int) -> Any:
        """The sample, an image as uint8 [H, W, C]. Raises InputError if it cannot be read."""
        ...

    def content(self, index: int) -> int:
        """64 bits of a hash of all that is stored of the sample, whatever it decodes to. Raises InputError."""
        ...

    def stamp(self, index: int) -> str | None:
        """What changes whenever the content does, without reading it; None where nothing is sure to."""
        ...

    def check_classes(self, labels: Sequence[str]) -> None:
        """Raises InputError where the classes seem to be something else, not those of a model with these labels."""
        ...


def _store(location: Path) -> Store:
    if location.is_dir():
        return Folder(location)
    return PackedJpegs(location) if location.suffix.lower() == PACKED else Zip(location)


class ClassFolders:
    """`<class>/*.jpg`, or `train/<class>/*.jpg` with `test/` or `val/` beside it, in a folder, a zip or a pack."""

    noun: str
    suffixes: ClassVar[tuple[str, ...]]
    packings: ClassVar[tuple[str, ...]]
    """Suffixes of the single files that may hold them."""
    named = True
    boxes: Sequence[np.ndarray] | None = None
    masks: Sequence[np.ndarray] | None = None

    def __init__(self, location: Path) -> None:
        """Raises InputError for a place without classes of such files."""
        self.location = location
        self._store = _store(location)
        files, folders = (_visible(paths) for paths in self._store.listing())
        samples = [path for path in files if path[-1].lower().endswith(self.suffixes)]
        others = _suffixes(path for path in files if not path[-1].lower().endswith(self.suffixes))
        if not samples:
            found = f", but {others}" if others else ""
            packed = any(path[-1].lower().endswith(self.packings) for path in files)
            do = f"give the {' or '.join(self.packings)} itself" if packed else "name another place"
            raise InputError(f"{location} holds no {self.noun}{found} (looked for {' '.join(self.suffixes)}); {do}")
        depth = _wrapper_depth(samples)
        parts = _parts(samples, depth)
        depth += bool(parts)
        chosen = sorted(path for path in samples if len(path) > depth + 1 and (not parts or path[depth - 1] in parts))
        if not chosen:
            kind = self.noun
            raise InputError(f"{location} holds {kind} but no classes; put each class's {kind} into its own folder")
        self.class_names = in_order({path[depth] for path in chosen})
        around = {path[:depth] for path in chosen}
        empty = {path[depth] for path in folders if len(path) > depth and path[:depth] in around}
        if empty := empty.difference(self.class_names):
            raise InputError(
                f"{location} has class folders without {self.noun}: {listed(in_order(empty))}; remove or fill them"
            )
        number = {name: index for index, name in enumerate(self.class_names)}
        self.names: Sequence[str] = ["/".join(path) for path in chosen]
        self.labels = np.array([number[path[depth]] for path in chosen], np.int64)
        self.parts: dict[Part, np.ndarray] | None = None
        if parts:
            use = np.array([parts[path[depth - 1]] for path in chosen])
            self.parts = {
                "evaluation": np.flatnonzero(use == "evaluation"),
                "healing": np.flatnonzero(use == "healing"),
            }
        self._inner = () if parts else _shared_below(chosen, depth)
        left = sorted(set(samples).difference(chosen))
        self.notes = (
            *([f"files passed over: {others}"] if others else []),
            *([f"{self.noun} passed over: {len(left)}, such as {'/'.join(left[0])}"] if left else []),
        )

    def decoded(self, index: int) -> Any:
        raise NotImplementedError

    def content(self, index: int) -> int:
        return fingerprint(self._store.read(self.names[index]))

    def stamp(self, index: int) -> str | None:
        return self._store.stamp(self.names[index])

    def check_classes(self, labels: Sequence[str]) -> None:
        known = set(map(plain, labels))
        if self._inner and not any(plain(name) in known for name in self.class_names):
            tops, inner = (listed(names, most=4) for names in (self.class_names, self._inner))
            raise InputError(
                f"{self.location}: {tops} all hold the folders {inner}: if these are the classes, "
                "name what is around them train/ and test/"
            )


class ImageFiles(ClassFolders):
    """Image files."""

    noun, suffixes, packings = "images", SUFFIXES, (".npz", ".zip")

    def decoded(self, index: int) -> np.ndarray:
        return self._store.image(self.names[index])


def _visible(paths: Iterable[str]) -> Paths:
    """The paths in pieces, without what systems put beside the user's files."""
    pieces = (tuple(path.split("/")) for path in paths)
    return [path for path in pieces if not any(map(reading.is_systems, path))]


def _suffixes(paths: Iterable[tuple[str, ...]]) -> str:
    """How many files there are of each kind."""
    count = Counter(PurePosixPath(path[-1]).suffix.lower() or "without a suffix" for path in paths)
    return listed([f"{number} {shortened(suffix)}" for suffix, number in count.most_common()])


def _wrapper_depth(samples: Paths) -> int:
    """How many folders merely wrap the classes: 1, `photos/`, in `photos/cat/1.jpg, photos/dog/2.jpg`."""
    depth = 0
    while min(map(len, samples)) > depth + 2 and len({path[depth] for path in samples}) == 1:
        depth += 1
    return depth


def _parts(samples: Paths, depth: int) -> dict[str, Part]:
    """What the folders that are named as parts, and hold classes, not samples, are for; {} where that is not said.

    Several parts that are all for evaluation are one set.
    """
    shallowest: dict[str, int] = {}
    for path in samples:
        shallowest[path[depth]] = min(len(path), shallowest.get(path[depth], len(path)))
    kinds = {name: part_named(name) for name, length in shallowest.items() if length > depth + 2}
    healing: dict[str, Part] = {name: "healing" for name, kind in kinds.items() if kind == TRAIN}
    kind = next((kind for kind in EVALUATED if kind in kinds.values()), None)
    evaluation: dict[str, Part] = {name: "evaluation" for name in kinds if kind and kinds[name] == kind}
    if healing and evaluation:
        return {**healing, **evaluation}
    if len(kinds) > 1 and set(kinds.values()) <= set(EVALUATED) and len(kinds) == len(shallowest):
        return dict.fromkeys(kinds, "evaluation")
    return {}


def _shared_below(samples: Paths, depth: int) -> tuple[str, ...]:
    """The names of the folders that all classes hold, if they hold two or more and nothing else: as parts would."""
    below: dict[str, set[str]] = {}
    for path in samples:
        below.setdefault(path[depth], set()).add(path[depth + 1] if len(path) > depth + 2 else "")
    shared = set.intersection(*below.values())
    alike = len(below) > 1 and len(shared) > 1 and all(inner == shared for inner in below.values())
    return in_order(shared) if alike else ()
