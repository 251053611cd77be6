"""Recordings at another rate: a windowed sinc between the samples, as `scipy.signal.resample_poly` has it.

T samples, K taps of the filter, M outputs of one phase.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

#: Zero crossings of the sinc on each side, and the form of its Kaiser window.
_CROSSINGS, _BETA = 10, 5.0


def resampled(samples_T: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """float32: the samples that `rate` a second make at `wanted` a second; beyond the ends is silence."""
    import numpy as np

    if rate == wanted:
        return samples_T
    shared = math.gcd(rate, wanted)
    up, down = wanted // shared, rate // shared
    filter_K, half = _filter(up, down)
    count = -(-len(samples_T) * up // down)
    reach = 1 + (half + up) // up
    padded = np.pad(samples_T.astype(np.float32), (reach, reach + down))
    out = np.empty(count, np.float32)
    for first in range(min(up, count)):  # outputs that lie alike between two samples share their taps
        start, rest = divmod(first * down, up)
        before, behind = (half - rest) // up, (half + rest) // up
        taps = filter_K[half + rest - up * behind : half + rest + up * before + 1 : up][::-1].astype(np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(padded, before + behind + 1)
        here_M = out[first::up]
        here_M[:] = windows[start + reach - before :: down][: len(here_M)] @ taps
    return out


@functools.lru_cache(maxsize=4)
def _filter(up: int, down: int) -> tuple[np.ndarray, int]:
    """The low pass between both rates, and how far it reaches to either side."""
    import numpy as np

    wide = max(up, down)
    half = _CROSSINGS * wide
    filter_K = np.sinc(np.arange(-half, half + 1) / wide) * np.kaiser(2 * half + 1, _BETA)
    return filter_K * (up / filter_K.sum()), half
