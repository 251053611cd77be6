"""Images with a mask each, a picture of class numbers. H height, W width."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np

from compress.data.classes import listed
from compress.data.seen import fingerprint
from compress.data.sources import SUFFIXES, Part
from compress.data.splits import EVALUATED, TRAIN, part_named
from compress.data.stores import stamp_of
from runtime.faults import told
from runtime.images import reading
from targets.errors import InputError

#: What people call the two folders.
_IMAGES = ("images", "image", "img", "imgs", "jpegimages", "photos")
_MASKS = ("masks", "mask", "annotations", "labels", "segmentationclass", "gt")
_MASK = ".png"
_NUMBERS = ("1", "L", "P", "I", "I;16")


def mask_files(place: Path) -> list[tuple[Path, Path]]:
    """Images and their masks in a folder: `images/NAME.jpg` beside `masks/NAME.png`, also below folders of parts on
    either side; [] where there are none."""
    if not place.is_dir():
        return []
    pairs = []
    for images in sorted(path for path in place.rglob("*") if path.is_dir() and path.name.lower() in _IMAGES):
        beside = [path for path in sorted(images.parent.iterdir()) if path.is_dir() and path.name.lower() in _MASKS]
        for image in sorted(images.rglob("*")) if beside else []:
            mask = beside[0] / image.relative_to(images).with_suffix(_MASK)
            if image.suffix.lower() in SUFFIXES and mask.is_file():
                pairs.append((image, mask))
    return pairs


class Masks(Sequence[np.ndarray]):
    """Masks, read when they are asked for: whole numbers [H, W]. Raise InputError for other files."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        from PIL import Image

        path = self._paths[index]
        fault = f"{path} is not a readable mask"
        with told(fault, "save it again as PNG"), Image.open(path, formats=["PNG"]) as picture:
            mode, mask_HW = picture.mode, np.asarray(picture)
        if mode not in _NUMBERS:
            raise InputError(f"{path} has colours ({mode}); save masks as class numbers, one channel")
        return mask_HW.astype(np.int64)


class MaskFiles:
    """The images of `mask_files`. Folders that are named so say which are for training and which for testing."""

    noun = "images"
    named = True
    boxes: Sequence[np.ndarray] | None = None

    def __init__(self, location: Path, pairs: Sequence[tuple[Path, Path]]) -> None:
        self.location = location
        self._images = [image for image, _ in pairs]
        self.masks: Sequence[np.ndarray] | None = Masks([mask for _, mask in pairs])
        self.names: Sequence[str] = [path.relative_to(location).as_posix() for path in self._images]
        self.class_names: tuple[str, ...] = (self.noun,)
        self.labels = np.zeros(len(pairs), np.int64)
        self.parts = _parts(self.names)
        bare = sorted(path.name for path in _beside(self._images) - set(self._images))
        self.notes: tuple[str, ...] = (f"images without a mask, left out: {listed(bare, 3)}",) if bare else ()

    def decoded(self, index: int) -> np.ndarray:
        return reading.read_image(self._images[index])

    def content(self, index: int) -> int:
        return fingerprint(reading.read_bytes(self._images[index]))

    def stamp(self, index: int) -> str | None:
        return stamp_of(self._images[index])

    def check_classes(self, labels: Sequence[str]) -> None:
        """Masks hold the model's own class numbers."""


def _beside(images: Sequence[Path]) -> set[Path]:
    """All images in the folders of these."""
    folders = {path.parent for path in images}
    return {path for folder in folders for path in folder.iterdir() if path.suffix.lower() in SUFFIXES}


def _parts(names: Sequence[str]) -> dict[Part, np.ndarray] | None:
    """Which images are for what, by the folders that they are in; None where these do not say it."""
    kinds = np.array([next(filter(None, map(part_named, PurePath(name).parts[:-1])), "") for name in names])
    judged = next((kind for kind in EVALUATED if kind in kinds), None)
    if judged is None or TRAIN not in kinds:
        return None
    return {"evaluation": np.flatnonzero(kinds == judged), "healing": np.flatnonzero(kinds == TRAIN)}
