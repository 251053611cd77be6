"""The steps that 4-bit weights may take, and how a file stores them.

Inputs in blocks share a scale and a zero point. A scale is itself a whole number from 1 to 255 of the unit of its
output, so that it takes a byte.

K inputs, N outputs, B inputs in a block, G = K/B blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

#: The largest code of 4 bits.
TOP = 15
_LEVELS = 255
#: Ranges that are tried for each block, as parts of the whole one: a few clipped weights may cost less than wide steps.
_RANGES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6)


@dataclass(frozen=True)
class Grid:
    """The sixteen steps of each block: (code - zeros) * levels * units. `levels` (G,N) uint8, 1 to 255; `units` (N,)
    float32; `zeros` (G,N) uint8, 0 to 15."""

    size: int
    levels: np.ndarray
    units: np.ndarray
    zeros: np.ndarray

    @cached_property
    def scales(self) -> np.ndarray:
        """The steps of the blocks (G,N), float32."""
        return self.levels * self.units

    def nearest(self, weight_KN: np.ndarray) -> np.ndarray:
        """The codes (K,N) of the steps that are nearest to a weight."""
        import numpy as np

        scales, zeros = (np.repeat(one, self.size, axis=0) for one in (self.scales, self.zeros))
        return codes_of(weight_KN, scales, zeros)

    def rescaled(self, scales_GN: np.ndarray) -> Grid:
        """The same zero points with other scales, as far as these can be stored."""
        return Grid(self.size, *_stored(scales_GN), self.zeros)


@dataclass(frozen=True)
class Blocks:
    """A weight in steps: its grid and its codes (K,N) uint8, 0 to 15."""

    grid: Grid
    codes: np.ndarray

    def values(self) -> np.ndarray:
        """The weight (K,N) that these stand for, float32."""
        import numpy as np

        scales, zeros = (np.repeat(one, self.grid.size, axis=0) for one in (self.grid.scales, self.grid.zeros))
        return (self.codes - zeros.astype(np.float32)) * scales


def joined(parts: Sequence[Blocks]) -> Blocks:
    """One weight of parts that hold its outputs in turn, all of them with blocks of one size."""
    import numpy as np

    grids = [part.grid for part in parts]
    levels, zeros = (np.concatenate([getattr(one, name) for one in grids], axis=1) for name in ("levels", "zeros"))
    grid = Grid(grids[0].size, levels, np.concatenate([one.units for one in grids]), zeros)
    return Blocks(grid, np.concatenate([part.codes for part in parts], axis=1))


def codes_of(weight: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """The nearest of sixteen steps of `scale` around the code `zero`; all of one shape, or of shapes that broadcast."""
    import numpy as np

    return np.clip(np.round(weight / scale) + zero, 0, TOP).astype(np.uint8)


def search_grid(weight_KN: np.ndarray, size: int, loudness_K: np.ndarray) -> Grid:
    """The grid of each block's range with the least squared error of rounding, each input as heavy as `loudness_K`, its
    mean square. K is a whole number of blocks."""
    import numpy as np

    weight_GBN = weight_KN.reshape(-1, size, weight_KN.shape[1])
    loudness_GB1 = loudness_K.astype(np.float32).reshape(-1, size, 1)
    high_GN, low_GN = np.maximum(weight_GBN.max(axis=1), 0), np.minimum(weight_GBN.min(axis=1), 0)
    best_GN = np.full(high_GN.shape, np.inf, np.float32)
    scales_GN, zeros_GN = np.ones_like(best_GN), np.zeros(best_GN.shape, np.uint8)
    for part in _RANGES:
        span_GN = (high_GN - low_GN) * np.float32(part / TOP)
        tried_GN = np.where(span_GN > 0, span_GN, np.float32(1.0))
        zero_GN = np.clip(np.round(-low_GN * np.float32(part) / tried_GN), 0, TOP).astype(np.uint8)
        apart_GBN = codes_of(weight_GBN, tried_GN[:, None], zero_GN[:, None]) - zero_GN[:, None].astype(np.float32)
        error_GN = (np.square(apart_GBN * tried_GN[:, None] - weight_GBN) * loudness_GB1).sum(axis=1)
        better = error_GN < best_GN
        best_GN = np.where(better, error_GN, best_GN)
        scales_GN, zeros_GN = np.where(better, tried_GN, scales_GN), np.where(better, zero_GN, zeros_GN)
    return Grid(size, *_stored(scales_GN), zeros_GN)


def _stored(scales_GN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Levels and units of scales above zero."""
    import numpy as np

    units_N = (scales_GN.max(axis=0) / np.float32(_LEVELS)).astype(np.float32)
    return np.clip(np.round(scales_GN / units_N), 1, _LEVELS).astype(np.uint8), units_N
