"""Parts of a data set that may fare worse than the rest: dark images, long texts, or what the user's file says.

S samples.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from compress.data.classes import listed
from targets.errors import InputError

if TYPE_CHECKING:
    from compress.data import ImageDataset

Slices = dict[str, NDArray[np.bool_]]
_COLUMNS = ["sample", "slice"]
_AT_ONCE = 256


def of_images(data: ImageDataset) -> Slices:
    """The darkest and brightest quarter, and those of least and most contrast."""
    looks = np.array([look for start in range(0, len(data), _AT_ONCE) for look in _looks(data, start)])
    brightness, contrast = looks.T
    return {
        **_quarters(brightness, "darkest quarter", "brightest quarter"),
        **_quarters(contrast, "low contrast", "high contrast"),
    }


def of_sizes(sizes: NDArray[np.int64]) -> Slices:
    """The shortest and the longest quarter, by the samples' sizes [S]."""
    return _quarters(sizes.astype(np.float64), "shortest quarter", "longest quarter")


def read(path: Path, names: Sequence[str]) -> Slices:
    """A CSV with the columns sample (a name of the data set) and slice; a sample may be in several slices.

    Raises InputError for a file that is not like that, or that names samples which the data do not have.
    """
    places = {name: index for index, name in enumerate(names)}
    slices: Slices = {}
    unknown: list[str] = []
    for sample, name in _rows(path):
        if sample in places:
            slices.setdefault(name, np.zeros(len(names), bool))[places[sample]] = True
        else:
            unknown.append(sample)
    if unknown:
        raise InputError(f"{path}: {len(unknown)} samples are not in the data: {listed(unknown)} (it has {names[0]})")
    if not slices:
        raise InputError(f"{path} has no rows below sample,slice")
    return slices


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read the slices {path}: {error}") from error
    if not lines or lines[0] != _COLUMNS:
        raise InputError(f"{path}: the first line must be {','.join(_COLUMNS)}")
    for number, line in enumerate(lines[1:], 2):
        if len(line) != 2 or not all(line):
            raise InputError(f"{path}, line {number}: expected a sample and a slice, got {','.join(line)!r}")
        yield line[0], line[1]


def _quarters(values: NDArray[np.float64], low: str, high: str) -> Slices:
    """Masks of the samples below the first and above the third quartile; none where all values are about alike."""
    first, third = np.quantile(values, [0.25, 0.75])
    if first == third:
        return {}
    return {low: np.asarray(values <= first), high: np.asarray(values >= third)}


def _looks(data: ImageDataset, start: int) -> list[tuple[float, float]]:
    """Mean and standard deviation of each image's values."""
    images = data.raw(range(start, min(start + _AT_ONCE, len(data))))
    if len({image.shape for image in images}) > 1:
        return [(float(image.mean()), float(image.std())) for image in images]
    flat = np.stack(images).reshape(len(images), -1).astype(np.float32)
    return list(zip(flat.mean(axis=1).tolist(), flat.std(axis=1).tolist(), strict=True))
