"""Maps of depth, judged by how far they are the original's.

S samples, P pixels.
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

#: A pixel's depth is right within this factor.
FACTOR = 1.25
#: Depths below this part of the largest of their map count as it: what is far away has an inverse depth of nearly 0.
FLOOR = 0.01
#: A map is the same answer if this share of its pixels is within the factor.
SAME_MAP = 0.9


def aligned(depth_SP: NDArray[Any], wanted_SP: NDArray[Any]) -> F64:
    """The maps, scaled and shifted so that their squared distance from the wanted ones is least: depth that is only
    relative has neither a unit nor a zero (Ranftl et al. 2020, arXiv 1907.01341)."""
    x_SP, y_SP = depth_SP.astype(np.float64), wanted_SP.astype(np.float64)
    x_S1, y_S1 = x_SP.mean(axis=1, keepdims=True), y_SP.mean(axis=1, keepdims=True)
    spread_S1 = ((x_SP - x_S1) ** 2).mean(axis=1, keepdims=True)
    both_S1 = ((x_SP - x_S1) * (y_SP - y_S1)).mean(axis=1, keepdims=True)
    scale_S1 = both_S1 / np.where(spread_S1 > 0, spread_S1, 1.0)
    return np.asarray(y_S1 + scale_S1 * (x_SP - x_S1))


def _compared(p: DepthMaps) -> tuple[F64, F64]:
    """Aligned and wanted depths, each at least the floor."""
    wanted_SP = p.wanted.astype(np.float64)
    least_S1 = np.maximum(FLOOR * wanted_SP.max(axis=1, keepdims=True, initial=0), np.finfo(np.float32).tiny)
    return np.maximum(aligned(p.depths, wanted_SP), least_S1), np.maximum(wanted_SP, least_S1)


def _within_rows(p: DepthMaps) -> F64:
    found_SP, wanted_SP = _compared(p)
    ratio_SP = np.maximum(found_SP / wanted_SP, wanted_SP / found_SP)
    return np.asarray((ratio_SP < FACTOR).mean(axis=1, keepdims=True), np.float64)


def _error_rows(p: DepthMaps) -> F64:
    found_SP, wanted_SP = _compared(p)
    return np.asarray((np.abs(found_SP - wanted_SP) / wanted_SP).mean(axis=1, keepdims=True))


def _far_off(rows_SK: F64) -> F64:
    """Each map as wrong as any, and at least by all of its depth."""
    return np.full_like(rows_SK, max(float(rows_SK.max()), 1.0))


@dataclass(frozen=True, eq=False)
class DepthMaps(Samples):
    """What a model says of some pixels of each image, `depths` float32 [S, P], and the depths that are `wanted` there
    [S, P]: the original's, which a model's own answers do not hold yet (all 0)."""

    depths: NDArray[np.float32]
    wanted: NDArray[np.float32]

    kind: ClassVar[str] = "depth maps"
    shared: ClassVar[tuple[str, ...]] = ("wanted",)
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(
            "depth_delta1",
            f"Pixels within a factor of {FACTOR} of the original's depth",
            "%",
            True,
            _within_rows,
            percent,
            unseen=np.zeros_like,
        ),
        Metric(
            "depth_absrel",
            "Mean absolute relative difference from the original's depth",
            "%",
            False,
            _error_rows,
            percent,
            unseen=_far_off,
        ),
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "depths", as_array(self.depths, np.float32, 2, "depths"))
        object.__setattr__(self, "wanted", as_array(self.wanted, np.float32, 2, "wanted"))
        if self.depths.shape != self.wanted.shape:
            shapes = f"{list(self.depths.shape)} and {list(self.wanted.shape)}"
            raise InputError(f"depths and wanted ones have the shapes {shapes}; give one for each pixel")

    def fault(self) -> str | None:
        if (fault := super().fault()) is not None or self.wanted.any():
            return fault
        return "the original's depth is not known, or 0 everywhere"

    def beside(self, reference: Samples) -> Self:
        if not isinstance(reference, DepthMaps) or self.wanted.any() or reference.depths.shape != self.depths.shape:
            return self
        return replace(self, wanted=reference.wanted if reference.wanted.any() else reference.depths)

    def knows_nothing(self, confidence: float) -> str | None:
        if np.ptp(self.depths, axis=1).any():
            return None
        return f"its depth maps of {len(self):,} images are all flat: is the checkpoint trained?"

    def agree(self, other: Self) -> NDArray[np.bool_]:
        """On an image whose pixels are nearly all within the factor."""
        return np.asarray(_within_rows(replace(other, wanted=self.depths))[:, 0] >= SAME_MAP)

    def most_changed(self, candidate: Self) -> list[ChangedExample]:
        moved_S = 100 * _error_rows(replace(candidate, wanted=self.depths))[:, 0]
        return examples(
            moved_S,
            "% relative difference",
            lambda index: f"{self.depths[index].mean():.3g} on average",
            lambda index: f"{candidate.depths[index].mean():.3g} on average",
        )

    def compact(self) -> NDArray[Any]:
        return self.depths.astype("<f4").ravel()

    def restored(self, data: Compact) -> DepthMaps:
        return DepthMaps(np.frombuffer(data, "<f4").reshape(self.depths.shape), self.wanted)
