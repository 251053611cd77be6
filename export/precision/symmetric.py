"""Symmetric int8: zero points 0, one scale per channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def quantize(weight: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric int8 in [-127, 127] with one float32 scale per index of `axis`; a channel of zeros gets scale 1."""
    import numpy as np

    others = tuple(one for one in range(weight.ndim) if one != axis)
    scales = np.abs(weight).max(axis=others) / np.float32(127)
    scales = np.where(scales > 0, scales, 1).astype(np.float32)
    shape = [-1 if one == axis else 1 for one in range(weight.ndim)]
    return np.clip(np.rint(weight / scales.reshape(shape)), -127, 127).astype(np.int8), scales
