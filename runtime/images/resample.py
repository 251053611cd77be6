"""Resize 8-bit images exactly as Pillow does, bit for bit, for whole batches.

Nearest picks pixels. Bilinear and bicubic convolve each axis with a kernel as wide as the scale, so that shrinking does
not alias, in 22-bit fixed point, rounding to 8 bits after each of the two passes: the algorithm of Pillow's Resample.c
with the order of passes of Pillow 13.

Shape suffixes: B batch, H height, W width, C channels, N positions along an axis, K taps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

Filter = Literal["nearest", "bilinear", "bicubic"]

_PRECISION = 32 - 8 - 2  # bits of a coefficient: 8 of a pixel, 2 of headroom
_SLICE = 1 << 24  # most values of one intermediate array: bounds memory for large batches


def resize(images_BHWC: np.ndarray, size: tuple[int, int], resample: Filter) -> np.ndarray:
    """uint8 [B, H, W, C] to uint8 [B, height, width, C], where size = (height, width)."""
    import numpy as np

    batch, height, width, channels = images_BHWC.shape
    if (height, width) == size:
        return images_BHWC
    if resample == "nearest":
        rows, columns = _nearest(height, size[0]), _nearest(width, size[1])
        return images_BHWC[:, rows[:, None], columns]
    out = np.empty((batch, *size, channels), np.uint8)
    some = max(1, _SLICE // max(1, channels * max(height, size[0]) * size[1]))
    for start in range(0, batch, some):
        piece = images_BHWC[start : start + some]
        for axis in _order(height - size[0], width - size[1]):
            piece = _convolve(piece, axis, size[axis - 1], resample)
        out[start : start + some] = piece
    return out


def _order(lost_rows: int, lost_columns: int) -> tuple[int, int]:
    """Axes in the order of the passes: columns first, unless the height shrinks by more than twice what the width does.

    Pillow 12 and older always do columns first; the two differ by rounding, and only for such lopsided resizes.
    """
    return (1, 2) if lost_rows > 0 and lost_rows > 2 * lost_columns else (2, 1)


def _nearest(before: int, after: int) -> np.ndarray:
    """Which old position each new one takes. The running sum repeats Pillow's, rounding included."""
    import numpy as np

    scale = before / after
    steps = np.full(after, scale)
    steps[0] = scale * 0.5
    return np.minimum(np.add.accumulate(steps).astype(np.intp), before - 1)


def _convolve(images: np.ndarray, axis: int, after: int, resample: Filter) -> np.ndarray:
    """Resample one axis of uint8 [B, H, W, C] to `after` positions."""
    import numpy as np

    before = images.shape[axis]
    if before == after:
        return images
    index_NK, weight_NK = _taps(before, after, resample)
    shape = [1, 1, 1, 1]
    shape[axis] = after
    total: np.ndarray | int = 1 << (_PRECISION - 1)
    for tap in range(index_NK.shape[1]):
        total = total + images.take(index_NK[:, tap], axis) * weight_NK[:, tap].reshape(shape)
    return np.clip(np.asarray(total) >> _PRECISION, 0, 255).astype(np.uint8)


@lru_cache(maxsize=64)
def _taps(before: int, after: int, resample: Filter) -> tuple[np.ndarray, np.ndarray]:
    """For each new position the old ones that it reads and their fixed-point weights, both [N, K]."""
    import numpy as np

    kernel, reach = _KERNELS[resample]
    scale = before / after
    stretch = max(scale, 1.0)
    support = reach * stretch
    centre_N1 = ((np.arange(after) + 0.5) * scale)[:, None]
    first_N1 = np.maximum((centre_N1 - support + 0.5).astype(np.int64), 0)
    end_N1 = np.minimum((centre_N1 + support + 0.5).astype(np.int64), before)
    tap_K = np.arange(math.ceil(support) * 2 + 1)
    inside_NK = first_N1 + tap_K < end_N1
    weight_NK = np.where(inside_NK, kernel((tap_K + first_N1 - centre_N1 + 0.5) * (1.0 / stretch)), 0.0)
    sum_N1 = np.add.accumulate(weight_NK, axis=1)[:, -1:]
    weight_NK = weight_NK / np.where(sum_N1 == 0.0, 1.0, sum_N1) * (1 << _PRECISION)
    fixed_NK = np.trunc(weight_NK + np.copysign(0.5, weight_NK)).astype(np.int32)
    used = int(inside_NK.sum(axis=1).max())
    return np.where(inside_NK, first_N1 + tap_K, 0)[:, :used], fixed_NK[:, :used]


def _triangle(x: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.maximum(1.0 - np.abs(x), 0.0)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution with a = -0.5."""
    import numpy as np

    a, x = -0.5, np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


_KERNELS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
    "bilinear": (_triangle, 1.0),
    "bicubic": (_cubic, 2.0),
}
