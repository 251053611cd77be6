"""Images with boxes as COCO's json files have them. G boxes of an image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compress.data.classes import listed
from compress.data.seen import fingerprint
from compress.data.sources import Part
from compress.data.splits import EVALUATED, TRAIN, part_named
from compress.data.stores import stamp_of
from compress.json_files import read_json
from runtime.images import reading
from targets.errors import InputError

#: What a file of boxes has to hold.
_KEYS = ("images", "annotations", "categories")
_PREFIX = "instances_"
#: A class by its name, and where a box of it lies.
Named = tuple[str, tuple[float, ...]]


def coco_files(place: Path) -> list[Path]:
    """The files of boxes at a place: it is one, or a folder holds them."""
    found = sorted(place.rglob("*.json")) if place.is_dir() else [place]
    return [path for path in found if path.suffix.lower() == ".json" and _holds_boxes(path)]


def _holds_boxes(path: Path) -> bool:
    text = reading.read_bytes(path)
    return all(f'"{key}"'.encode() in text for key in _KEYS)


class CocoFiles:
    """The images of COCO files. Several files are parts, such as `train/_annotations.coco.json` beside `valid/` or
    `annotations/instances_val2017.json`."""

    noun = "images"
    named = True
    masks: Sequence[np.ndarray] | None = None

    def __init__(self, files: Sequence[Path]) -> None:
        """Raises InputError for files that are damaged, or that name images which are not there."""
        self.notes: tuple[str, ...] = ()
        self._paths: list[Path] = []
        self._sizes: list[tuple[int, int]] = []
        boxes, names, parts = list[list[Named]](), set[str](), list[str | None]()
        for file in files:
            for path, size, found in self._read(file):
                self._paths.append(path)
                self._sizes.append(size)
                boxes.append(found)
                names.update(name for name, _ in found)
                parts.append(_part(file))
        self.location = _around([*files, *self._paths])
        if not self._paths:
            raise InputError(f"{listed(list(map(str, files)))}: no images; name another file")
        if not names:
            raise InputError(f"{self.location}: no boxes in {listed([file.name for file in files])}; name another file")
        self.names: Sequence[str] = [path.relative_to(self.location).as_posix() for path in self._paths]
        self.class_names = tuple(sorted(names))
        number = {name: index for index, name in enumerate(self.class_names)}
        self.boxes: Sequence[np.ndarray] | None = [
            np.array([(number[name], *box) for name, box in own], np.float32).reshape(-1, 5) for own in boxes
        ]
        #: Only to draw parts evenly: the class of the largest box.
        self.labels = np.array([_main(own) for own in self.boxes], np.int64)
        self.parts = _parts(parts, self.location) if len(files) > 1 else None

    def _read(self, file: Path) -> Iterator[tuple[Path, tuple[int, int], list[Named]]]:
        """Each image's path, its height and width, and its boxes (centre, width and height as shares)."""
        content = read_json(file)
        try:
            category = {one["id"]: str(one["name"]) for one in content["categories"]}
            images = {one["id"]: one for one in content["images"]}
            kept = [one for one in content["annotations"] if not one.get("iscrowd") and min(one["bbox"][2:]) > 0]
            found: dict[Any, list[Named]] = {key: [] for key in images}
            for one in kept:
                found[one["image_id"]].append(
                    (category[one["category_id"]], _shares(one["bbox"], images[one["image_id"]]))
                )
            sizes = {key: (int(one["height"]), int(one["width"])) for key, one in images.items()}
            paths = {key: _image(file, str(one["file_name"])) for key, one in images.items()}
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
            raise InputError(f"{file} is not a COCO file: {type(error).__name__} {error}; save it again") from error
        if left := len(content["annotations"]) - len(kept):
            self.notes += (f"{file.name}: {left} boxes left out, of crowds or without an area",)
        if lacking := [str(images[key]["file_name"]) for key, path in paths.items() if path is None]:
            raise InputError(f"{file}: {len(lacking)} of {len(images)} images are not there: {listed(lacking)}")
        yield from ((path, sizes[key], found[key]) for key, path in paths.items() if path is not None)

    def decoded(self, index: int) -> np.ndarray:
        """Raises InputError, too, for an image of another size than the boxes are about (a turned or a scaled one)."""
        image, path = reading.read_image(self._paths[index]), self._paths[index]
        if image.shape[:2] != self._sizes[index]:
            sizes = [" x ".join(map(str, one)) for one in (image.shape[:2], self._sizes[index])]
            raise InputError(f"{path}: is of {sizes[0]}, but its boxes are about {sizes[1]}; mend the file of boxes")
        return image

    def content(self, index: int) -> int:
        return fingerprint(reading.read_bytes(self._paths[index]))

    def stamp(self, index: int) -> str | None:
        return stamp_of(self._paths[index])

    def check_classes(self, labels: Sequence[str]) -> None:
        """The classes are what the file calls them."""


def _shares(box: Sequence[float], image: Mapping[str, Any]) -> tuple[float, ...]:
    """Centre, width and height as shares of the image of what is left, top, width and height in pixels."""
    left, top, width, height = map(float, box)
    whole_x, whole_y = float(image["width"]), float(image["height"])
    return (left + width / 2) / whole_x, (top + height / 2) / whole_y, width / whole_x, height / whole_y


def _image(file: Path, name: str) -> Path | None:
    """Where an image of a file of boxes lies: beside it, or where people put them; None where it is not there."""
    stem = file.stem.removeprefix(_PREFIX)
    folders = (file.parent, file.parent / "images", file.parent / stem)
    above = (file.parent.parent, file.parent.parent / "images", file.parent.parent / stem)
    return next((place / name for place in (*folders, *above) if (place / name).is_file()), None)


def _around(paths: Sequence[Path]) -> Path:
    """The folder that holds them all."""
    shared = paths[0].parent
    while not all(path.is_relative_to(shared) for path in paths):
        shared = shared.parent
    return shared


def _main(own_G5: np.ndarray) -> int:
    return int(own_G5[own_G5[:, 3:].prod(axis=1).argmax(), 0]) if len(own_G5) else 0


def _part(file: Path) -> str | None:
    return part_named(file.stem.removeprefix(_PREFIX)) or part_named(file.parent.name)


def _parts(kinds: Sequence[str | None], location: Path) -> dict[Part, np.ndarray]:
    """Which images are for what. Raises InputError where the files' names do not say it."""
    judged = next((kind for kind in EVALUATED if kind in kinds), None)
    if TRAIN not in kinds or judged is None:
        raise InputError(
            f"{location} holds several files of boxes, and their names or folders do not say which is for training and "
            "which for testing; give one of them, or name them train and test"
        )
    use = np.array([kind or "" for kind in kinds])
    return {"evaluation": np.flatnonzero(use == judged), "healing": np.flatnonzero(use == TRAIN)}
