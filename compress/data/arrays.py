"""Images from the arrays of an npz: `images` and `labels`, or `x_train y_train x_test y_test`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from compress.data.classes import MOST_CLASSES, listed
from compress.data.seen import fingerprint
from compress.data.sources import Part
from compress.data.stores import stamp_of
from runtime.faults import read_arrays, told
from targets.errors import InputError

_LAYOUTS = (
    (("images", "labels", None),),
    (("x_test", "y_test", "evaluation"), ("x_train", "y_train", "healing")),
)
#: Of all arrays of an npz together, unpacked.
_MOST_BYTES = 8 << 30
_KEYS = "images and labels, or x_test, y_test, x_train and y_train"


class ImageArrays:
    """uint8 images [S, H, W] or [S, H, W, C] with C = 1 or 3, integer labels [S], optionally `class_names`."""

    noun = "images"
    notes: tuple[str, ...]
    boxes: Sequence[np.ndarray] | None = None
    masks: Sequence[np.ndarray] | None = None

    def __init__(self, location: Path) -> None:
        """Raises InputError for a file that is not such an npz. Never unpickles."""
        self.location = location
        self.notes = ()
        self._stamp = stamp_of(location)
        arrays = _read(location)
        sets = next((layout for layout in _LAYOUTS if all(key in arrays for key in layout[0][:2])), None)
        if sets is None:
            raise InputError(f"{location} has the keys {listed(sorted(arrays)) or 'none'}; it needs {_KEYS}")
        present = [one for one in sets if one[0] in arrays or one[1] in arrays]
        images = [_checked_images(location, arrays, key) for key, _, _ in present]
        labels = [
            _checked_labels(location, arrays, key, len(x)) for (_, key, _), x in zip(present, images, strict=True)
        ]
        self._images = [image for array in images for image in array]
        self.names: Sequence[str] = [
            f"{key}[{i}]" for (key, _, _), x in zip(present, images, strict=True) for i in range(len(x))
        ]
        self.labels = np.concatenate(labels)
        if not len(self.labels):
            raise InputError(f"{location} holds no images; name another file")
        self.named = "class_names" in arrays
        self.class_names = _class_names(location, arrays, int(self.labels.max()) + 1)
        self.parts: dict[Part, np.ndarray] | None = None
        if len(present) == 2:
            cut = len(labels[0])
            self.parts = {"evaluation": np.arange(cut), "healing": np.arange(cut, len(self.labels))}

    def decoded(self, index: int) -> np.ndarray:
        return self._images[index]

    def content(self, index: int) -> int:
        image = self._images[index]
        return fingerprint(repr(image.shape).encode() + image.tobytes())

    def stamp(self, index: int) -> str | None:
        return f"{self._stamp} {index}" if self._stamp else None

    def check_classes(self, labels: Sequence[str]) -> None:
        """They are what the file says."""


def _read(location: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz, whose members are no larger than they may be before any is read. Raises InputError."""
    with told(f"{location} is not a readable npz of plain arrays", f"it needs {_KEYS}"):
        return read_arrays(location, _MOST_BYTES)


def _checked_images(location: Path, arrays: dict[str, np.ndarray], key: str) -> np.ndarray:
    """[S, H, W, C]"""
    images = arrays.get(key)
    if images is None:
        raise InputError(f"{location} has labels but no {key}; it needs {_KEYS}")
    if images.dtype != np.uint8:
        raise InputError(f"{location}: {key} is {images.dtype}; it must be uint8, 0 to 255")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape[1:3]:
        shape = list(arrays[key].shape)
        raise InputError(
            f"{location}: {key} has the shape {shape}; it must be [N, height, width] or [N, height, width, 1 or 3]"
        )
    return images


def _checked_labels(location: Path, arrays: dict[str, np.ndarray], key: str, count: int) -> np.ndarray:
    """int64 [S]"""
    labels = arrays.get(key)
    if labels is None:
        raise InputError(f"{location} has images but no {key}; it needs {_KEYS}")
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"{location}: {key} is {labels.dtype} {list(labels.shape)}; it must be integers of shape [N]")
    if len(labels) != count:
        raise InputError(f"{location}: {count} images but {len(labels)} {key}; they must be as many")
    if count and labels.min() < 0:
        raise InputError(f"{location}: {key} holds {labels.min()} at {labels.argmin()}; labels count from 0")
    if count and labels.max() >= MOST_CLASSES:
        raise InputError(f"{location}: {key} reaches {labels.max()}; there are at most {MOST_CLASSES} classes")
    return labels.astype(np.int64)


def _class_names(location: Path, arrays: dict[str, np.ndarray], classes: int) -> tuple[str, ...]:
    names = arrays.get("class_names")
    if names is None:
        return tuple(map(str, range(classes)))
    if names.ndim != 1 or names.dtype.kind != "U":
        raise InputError(
            f"{location}: class_names is {names.dtype} {list(names.shape)}; it must be texts of shape [classes]"
        )
    if classes > len(names):
        raise InputError(f"{location}: labels reach {classes - 1} but class_names holds {len(names)} names")
    return tuple(names.tolist())
