"""Keypoints, judged by how far they are the original's.

S samples, C keypoints.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from compress.verification.changed import ChangedExample, examples
from compress.verification.metric import F64, Metric
from compress.verification.samples import Compact, Samples, as_array
from targets.errors import InputError

#: A keypoint is right within this share of the image's width and height.
WITHIN = 0.05
#: An image has the same answer if this share of its keypoints, each as sure as the original is of it, is right.
SAME = 0.9


def _distances(p: FoundKeypoints) -> F64:
    """[S, C]: from the wanted places, the larger of both shares."""
    apart_SC2 = np.abs(p.points.astype(np.float64) - p.wanted.astype(np.float64))
    return np.asarray(apart_SC2.max(axis=-1))


def _weights(p: FoundKeypoints) -> F64:
    return np.clip(p.weights.astype(np.float64), 0, 1)


def _within_rows(p: FoundKeypoints) -> F64:
    """[S, 2]: the weights of keypoints that are right, and of all."""
    weights_SC = _weights(p)
    return np.stack([(weights_SC * (_distances(p) <= WITHIN)).mean(axis=1), weights_SC.mean(axis=1)], axis=1)


def _error_rows(p: FoundKeypoints) -> F64:
    """[S, 2]: the weighted distances, and the weights."""
    weights_SC = _weights(p)
    return np.stack([(weights_SC * _distances(p)).mean(axis=1), weights_SC.mean(axis=1)], axis=1)


def _share(means_BK: F64) -> F64:
    return np.asarray(100 * means_BK[..., 0] / np.maximum(means_BK[..., 1], 1e-300))


def _none_right(rows_SK: F64) -> F64:
    return rows_SK * np.array([0.0, 1.0])


def _far_off(rows_SK: F64) -> F64:
    """Every keypoint at the other end of the image."""
    return rows_SK[:, [1, 1]]


@dataclass(frozen=True, eq=False)
class FoundKeypoints(Samples):
    """Where a model finds each keypoint, `points` float32 [S, C, 2] in shares of the image's width and height, how sure
    it is, `scores` float32 [S, C], the places that are `wanted` and their `weights`: those of the original and how sure
    it is, which a model's own answers do not hold yet (all 0)."""

    points: NDArray[np.float32]
    scores: NDArray[np.float32]
    wanted: NDArray[np.float32]
    weights: NDArray[np.float32]

    kind: ClassVar[str] = "keypoints"
    shared: ClassVar[tuple[str, ...]] = ("wanted", "weights")
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(
            "pck",
            f"Keypoints within {100 * WITHIN:.0f} % of the image of the original's",
            "%",
            True,
            _within_rows,
            _share,
            unseen=_none_right,
        ),
        Metric(
            "keypoint_error",
            "Mean distance from the original's keypoints, in shares of the image",
            "%",
            False,
            _error_rows,
            _share,
            unseen=_far_off,
        ),
    )

    def __post_init__(self) -> None:
        for name, ndim in (("points", 3), ("scores", 2), ("wanted", 3), ("weights", 2)):
            object.__setattr__(self, name, as_array(getattr(self, name), np.float32, ndim, name))
        shapes = {self.points.shape, self.wanted.shape, (*self.scores.shape, 2), (*self.weights.shape, 2)}
        if len(shapes) > 1:
            raise InputError(f"keypoints have the shapes {sorted(map(list, shapes))}; give two numbers for each")

    def fault(self) -> str | None:
        if (fault := super().fault()) is not None or (self.weights > 0).any():
            return fault
        return "the original's keypoints are not known, or it is not sure of any"

    def beside(self, reference: Samples) -> Self:
        if not isinstance(reference, FoundKeypoints) or self.weights.any() or len(reference) != len(self):
            return self
        if reference.weights.any():
            return replace(self, wanted=reference.wanted, weights=reference.weights)
        return replace(self, wanted=reference.points, weights=reference.scores)

    def knows_nothing(self, confidence: float) -> str | None:
        if len(self) < 2 or np.ptp(self.points, axis=0).any():
            return None
        return f"its keypoints lie at the same places in all of {len(self):,} images: is the checkpoint trained?"

    def agree(self, other: Self) -> NDArray[np.bool_]:
        """On an image whose keypoints are nearly all right."""
        rows_SK = _within_rows(replace(other, wanted=self.points, weights=self.scores))
        return np.asarray(rows_SK[:, 0] >= SAME * rows_SK[:, 1])

    def most_changed(self, candidate: Self) -> list[ChangedExample]:
        moved_S = _share(_error_rows(replace(candidate, wanted=self.points, weights=self.scores)))
        return examples(
            moved_S,
            "% of the image",
            lambda index: f"{self.scores[index].mean():.3g} sure on average",
            lambda index: f"{candidate.scores[index].mean():.3g} sure on average",
        )

    def compact(self) -> NDArray[Any]:
        return np.concatenate([self.points, self.scores[..., None]], axis=-1).astype("<f4").ravel()

    def restored(self, data: Compact) -> FoundKeypoints:
        kept = np.frombuffer(data, "<f4").reshape(*self.scores.shape, 3)
        return FoundKeypoints(kept[..., :2], kept[..., 2], self.wanted, self.weights)
