"""Resize 8-bit images exactly as Pillow does, bit for bit, for whole batches.

Nearest picks pixels. Bilinear and bicubic convolve each axis with a kernel as wide as the scale, so that shrinking does
not alias, in 22-bit fixed point, rounding to 8 bits after each of the two passes: the algorithm of Pillow's Resample.c
with the order of passes of Pillow 13.

Shape suffixes: B batch, H height, W width, C channels, N positions along an axis, K taps, P of N.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

Filter = Literal["nearest", "bilinear", "bicubic"]
Window = tuple[int, int, int, int]

_PRECISION = 32 - 8 - 2  # bits of a coefficient: 8 of a pixel, 2 of headroom
_SLICE = 1 << 24  # most values of one intermediate array: bounds memory for large batches
_TOGETHER = 16  # new positions at a time
_WORTH_PILLOW = 1 << 17  # pixels from which on Pillow, where it is there, gains more than importing it costs


def resize(
    images_BHWC: np.ndarray, size: tuple[int, int], resample: Filter, window: Window | None = None
) -> np.ndarray:
    """uint8 [B, H, W, C] to uint8 [B, height, width, C], where size = (height, width).

    With `window` (top, left, height, width) only that part of the resized images is computed and returned.
    """
    import numpy as np

    batch, height, width, channels = images_BHWC.shape
    top, left, rows, columns = window or (0, 0, *size)
    inside = slice(top, top + rows), slice(left, left + columns)
    if (height, width) == size:
        return images_BHWC[:, inside[0], inside[1]]
    if resample == "nearest":
        old_rows, old_columns = _nearest(height, size[0])[inside[0]], _nearest(width, size[1])[inside[1]]
        return images_BHWC[:, old_rows[:, None], old_columns]
    if height * width >= _WORTH_PILLOW and channels in (1, 3) and _pillow_agrees():
        return np.stack([_by_pillow(image, size, resample)[inside[0], inside[1]] for image in images_BHWC])
    out = np.empty((batch, rows, columns, channels), np.uint8)
    some = max(1, _SLICE // max(1, channels * max(height * columns, width * rows)))
    for start in range(0, batch, some):
        piece = images_BHWC[start : start + some]
        for axis in _order(height - size[0], width - size[1]):
            piece = _convolve(piece, axis, size[axis - 1], resample, inside[axis - 1])
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


def _convolve(images: np.ndarray, axis: int, after: int, resample: Filter, wanted: slice) -> np.ndarray:
    """Resample one axis of uint8 [B, H, W, C] to `after` positions, and give the wanted ones.

    Along lines that lie one behind the other in memory, a few new ones at a time: what is added up stays in the cache.
    """
    import numpy as np

    batch, height, width, channels = images.shape
    before = images.shape[axis]
    if before == after:
        return images[:, wanted] if axis == 1 else images[:, :, wanted]
    if axis == 1:
        lines = images.swapaxes(0, 1).reshape(height, -1)
    else:
        lines = images.reshape(batch * height, width * channels).T.reshape(width, -1)
    index_NK, weight_NK = (array[wanted] for array in _taps(before, after, resample))
    count, taps = index_NK.shape
    out = np.empty((count, lines.shape[1]), np.uint8)
    for start in range(0, count, _TOGETHER):
        index_PK, weight_PK = index_NK[start : start + _TOGETHER], weight_NK[start : start + _TOGETHER]
        total = np.full((len(index_PK), lines.shape[1]), 1 << (_PRECISION - 1), np.int32)
        part = np.empty_like(total)
        for tap in range(taps):
            total += np.multiply(lines[index_PK[:, tap]], weight_PK[:, tap, None], out=part)
        total >>= _PRECISION
        out[start : start + _TOGETHER] = np.clip(total, 0, 255, out=total)
    if axis == 1:
        return out.reshape(count, batch, width, channels).swapaxes(0, 1)
    return out.reshape(count * channels, batch * height).T.reshape(batch, height, count, channels)


def _by_pillow(image_HWC: np.ndarray, size: tuple[int, int], resample: Filter) -> np.ndarray:
    """The same by Pillow, one axis at a time: in which order it takes both depends on its version."""
    import numpy as np
    from PIL import Image

    height, width, channels = image_HWC.shape
    picture = Image.fromarray(image_HWC[..., 0] if channels == 1 else np.ascontiguousarray(image_HWC))
    now = [height, width]
    for axis in _order(height - size[0], width - size[1]):
        now[axis - 1] = size[axis - 1]
        picture = picture.resize((now[1], now[0]), Image.Resampling[resample.upper()])
    return np.asarray(picture).reshape(*size, channels)


@cache
def _pillow_agrees() -> bool:
    """Whether Pillow is here and gives the same bits; other builds of it round in their own way."""
    import numpy as np

    if importlib.util.find_spec("PIL") is None:
        return False
    image_HWC = np.random.default_rng(0).integers(0, 256, (37, 23, 3), np.uint8)
    return all(
        np.array_equal(_by_pillow(image_HWC, size, resample), resize(image_HWC[None], size, resample)[0])
        for size in ((9, 11), (50, 8), (3, 40))
        for resample in _KERNELS
    )


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


_KERNELS: dict[Filter, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
    "bilinear": (_triangle, 1.0),
    "bicubic": (_cubic, 2.0),
}
