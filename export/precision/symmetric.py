"""Symmetric int8: zero points 0, one scale per channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

#: Two neighbours in a channel may sum up to this where their products are added in 16 bits: 255 times it is less than
#: 2 ** 15.
PAIR = 128


def quantize(weight: np.ndarray, axis: int, most: int = 127) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric int8 in [-most, most] with one float32 scale per index of `axis`; a channel of zeros gets scale 1."""
    import numpy as np

    others = tuple(one for one in range(weight.ndim) if one != axis)
    scales = np.abs(weight).max(axis=others) / np.float32(most)
    scales = np.where(scales > 0, scales, 1).astype(np.float32)
    shape = [-1 if one == axis else 1 for one in range(weight.ndim)]
    return np.clip(np.rint(weight / scales.reshape(shape)), -most, most).astype(np.int8), scales


def quantize_pairs(weight: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """The same with neighbouring weights (0 and 1, 2 and 3, ... of a channel) that sum up to `PAIR` at most: products
    with numbers of 8 bits then add up in 16 bits. Each channel gets the scale of least squared error, between that of
    7 bits and that of 8. Convolutions get 7 bits: whose neighbours their weights are differs with the kernel."""
    import numpy as np

    if weight.ndim != 2:
        return quantize(weight, axis, PAIR // 2)
    weight_NK = weight if axis == 0 else weight.T
    codes_NK, finest_N = quantize(weight_NK, 0)
    scales_N, errors_N = finest_N.copy(), np.full(len(finest_N), np.inf)
    for wider in np.linspace(1, 127 / (PAIR // 2), 21, dtype=np.float32):
        scales = finest_N * wider
        found_NK = _within_pairs(np.rint(weight_NK / scales[:, None]))
        errors = np.square(found_NK * scales[:, None] - weight_NK).sum(axis=1)
        better = errors < errors_N
        codes_NK[better], scales_N[better], errors_N[better] = found_NK[better], scales[better], errors[better]
    return (codes_NK if axis == 0 else np.ascontiguousarray(codes_NK.T)), scales_N


def _within_pairs(codes_NK: np.ndarray) -> np.ndarray:
    """The nearest numbers whose neighbours sum up to `PAIR` at most."""
    import numpy as np

    rows, columns = codes_NK.shape
    pairs = np.pad(codes_NK, ((0, 0), (0, columns % 2))).reshape(rows, -1, 2)
    sums = pairs.sum(axis=-1)
    over = np.maximum(np.abs(sums) - PAIR, 0)
    first = np.where(np.abs(pairs[..., 0]) >= np.abs(pairs[..., 1]), np.ceil(over / 2), np.floor(over / 2))
    pairs = pairs - np.sign(sums)[..., None] * np.stack([first, over - first], axis=-1)
    return pairs.reshape(rows, -1)[:, :columns]
