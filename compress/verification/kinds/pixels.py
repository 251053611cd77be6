"""The class of each pixel, judged by the mean intersection over union.

S samples, P pixels, C classes, K = 3 C columns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from compress.verification.changed import ChangedExample, examples
from compress.verification.metric import F64, Metric, percent
from compress.verification.samples import Compact, Samples, as_array
from targets.errors import InputError

#: What a pixel is wanted to be that counts for nothing: nobody marked it.
UNMARKED = -1
#: A map is the same answer if this share of its pixels has the same class.
SAME_MAP = 0.9


def _counts(p: PixelClasses) -> F64:
    """[S, K]: of each class the shares of pixels that are right, found and true, among those that are marked."""
    classes, marked_SP = p.classes, p.wanted != UNMARKED
    rows = []
    for found_P, wanted_P, marked_P in zip(p.found, p.wanted, marked_SP, strict=True):
        found, wanted = found_P[marked_P], wanted_P[marked_P]
        parts = (wanted[found == wanted], found, wanted)
        rows.append(np.concatenate([np.bincount(part, minlength=classes) for part in parts]))
    return np.stack(rows) / p.found.shape[1]


def mean_overlap(means_BK: F64) -> F64:
    """Mean intersection over union in percent, over the classes that are marked or found."""
    right, found, true = np.split(means_BK, 3, axis=-1)
    either = found + true - right
    occurs = either > 1e-12
    overlap = np.where(occurs, right / np.where(occurs, either, 1.0), 0.0)
    return np.asarray(100 * overlap.sum(axis=-1) / np.maximum(occurs.sum(axis=-1), 1))


def _nothing_right(rows_SK: F64) -> F64:
    """Each sample with all of its pixels called otherwise."""
    right, found, true = np.split(rows_SK, 3, axis=1)
    return np.concatenate([np.zeros_like(right), found, true], axis=1)


def _same_rows(reference: PixelClasses, candidate: PixelClasses) -> F64:
    return np.asarray((reference.found == candidate.found).mean(axis=1, keepdims=True), np.float64)


@dataclass(frozen=True, eq=False)
class PixelClasses(Samples):
    """What a model takes some pixels of each image for, `found` int16 [S, P] below `classes`, and what they are,
    `wanted` int16 [S, P], -1 where nobody marked them: the original's answers where nothing is marked at all, which a
    model's own answers do not hold yet."""

    found: NDArray[np.int16]
    wanted: NDArray[np.int16]
    names: list[str] | None = None

    kind: ClassVar[str] = "classes of pixels"
    shared: ClassVar[tuple[str, ...]] = ("wanted",)
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("miou", "Mean intersection over union", "%", True, _counts, mean_overlap, unseen=_nothing_right),
        Metric(
            "pixel_agreement",
            "Pixels of the same class as the reference's",
            "%",
            True,
            _same_rows,
            percent,
            compares=True,
            unseen=np.zeros_like,
        ),
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "found", as_array(self.found, np.int16, 2, "found"))
        object.__setattr__(self, "wanted", as_array(self.wanted, np.int16, 2, "wanted"))
        if self.found.shape != self.wanted.shape:
            shapes = f"{list(self.found.shape)} and {list(self.wanted.shape)}"
            raise InputError(f"classes found and wanted have the shapes {shapes}; give one for each pixel")
        if self.found.min(initial=0) < 0 or self.wanted.min(initial=0) < UNMARKED:
            raise InputError("classes of pixels count from 0; give -1 for wanted ones that nobody marked")

    @property
    def classes(self) -> int:
        """How many there are, as far as it matters."""
        most = int(max(self.found.max(initial=0), self.wanted.max(initial=0))) + 1
        return max(most, len(self.names or ()))

    def fault(self) -> str | None:
        if (fault := super().fault()) is not None or (self.wanted != UNMARKED).any():
            return fault
        return "no pixel is marked, and the original's classes are not known"

    def beside(self, reference: Samples) -> Self:
        if not isinstance(reference, PixelClasses) or reference.found.shape != self.found.shape:
            return self
        marked = (self.wanted != UNMARKED).any()
        known = (reference.wanted != UNMARKED).any()
        return self if marked else replace(self, wanted=reference.wanted if known else reference.found)

    def knows_nothing(self, confidence: float) -> str | None:
        if (self.found != self.found[:1, :1]).any():
            return None
        return f"it takes every pixel of {len(self):,} images for one class: is the checkpoint trained?"

    def agree(self, other: Self) -> NDArray[np.bool_]:
        """On an image whose pixels have nearly all the same class."""
        return np.asarray(_same_rows(self, other)[:, 0] >= SAME_MAP)

    def most_changed(self, candidate: Self) -> list[ChangedExample]:
        moved_S = 100 * (1 - _same_rows(self, candidate)[:, 0])
        return examples(
            moved_S,
            "% of the pixels",
            lambda index: self._most(index),
            lambda index: candidate._most(index),
        )

    def _most(self, index: int) -> str:
        """The class of the most pixels, and of how many."""
        counts = np.bincount(self.found[index])
        place = int(counts.argmax())
        name = self.names[place] if self.names is not None else str(place)
        return f"{name} ({100 * counts[place] / counts.sum():.0f} %)"

    def compact(self) -> NDArray[Any]:
        return self.found.astype("<i2").ravel()

    def restored(self, data: Compact) -> PixelClasses:
        return PixelClasses(np.frombuffer(data, "<i2").reshape(self.found.shape), self.wanted, self.names)
