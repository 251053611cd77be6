"""Parts of a data set that may fare worse than the rest: dark images, quiet recordings, long texts.

S samples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Slices = dict[str, NDArray[np.bool_]]


def of_looks(brightness: NDArray[np.float64], contrast: NDArray[np.float64]) -> Slices:
    """The darkest and brightest quarter of images, and those of least and most contrast, by numbers [S]."""
    return {
        **_quarters(brightness, "darkest quarter", "brightest quarter"),
        **_quarters(contrast, "low contrast", "high contrast"),
    }


def of_sounds(seconds: NDArray[np.float64], power: NDArray[np.float64]) -> Slices:
    """The shortest and longest quarter of recordings, the quietest and the loudest, by numbers [S]."""
    return {
        **_quarters(seconds, "shortest quarter", "longest quarter"),
        **_quarters(power, "quietest quarter", "loudest quarter"),
    }


def of_sizes(sizes: NDArray[np.int64]) -> Slices:
    """The shortest and the longest quarter, by the samples' sizes [S]."""
    return _quarters(sizes.astype(np.float64), "shortest quarter", "longest quarter")


def _quarters(values: NDArray[np.float64], low: str, high: str) -> Slices:
    """Masks of the samples below the first and above the third quartile; none where all values are about alike."""
    first, third = np.quantile(values, [0.25, 0.75])
    if first == third:
        return {}
    return {low: np.asarray(values <= first), high: np.asarray(values >= third)}
