"""GPTQ: weights are rounded one input after another, and the weights not rounded yet make up for each error, by what
the layer reads on real inputs (Frantar et al., 2023, arXiv:2210.17323, algorithm 1; a second-order fit of the layer's
output). Without real inputs it is rounding to the nearest step.

K inputs, N outputs, B inputs that share a scale and a zero point.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from export.precision.calibrate import observe
from targets.errors import GateFailed

if TYPE_CHECKING:
    import numpy as np

_TOP = 15  # the largest code of 4 bits
#: Part of the mean second moment that is added to each: inputs that are sums of others leave the fit solvable.
_DAMPING = 0.01
#: Ranges that are tried for each block, as parts of the whole one: a few clipped weights may cost less than wide steps.
_RANGES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)


@dataclass(frozen=True)
class Blocks:
    """A weight in steps: (codes - zeros) * scales. codes (K,N) and zeros (K/B,N) 0 to 15, scales (K/B,N) float32."""

    codes: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray

    def values(self) -> np.ndarray:
        """The weight (K,N) that these stand for."""
        import numpy as np

        repeats = len(self.codes) // len(self.scales)
        steps = self.codes.astype(np.float32) - np.repeat(self.zeros, repeats, axis=0)
        return steps * np.repeat(self.scales, repeats, axis=0)


def second_moments(
    model: Any, names: Sequence[str], batches: Iterable[Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Mean outer product (K,K) of each named value of the graph with itself, over all positions of all batches.

    Raises InputError without a batch, GateFailed for a value that is not finite.
    """
    import numpy as np

    sums: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}
    for values in observe(model, names, batches):
        for name in names:
            rows_MK = values[name].reshape(-1, values[name].shape[-1])
            sums[name] = sums.get(name, 0.0) + (rows_MK.T @ rows_MK).astype(np.float64)
            counts[name] = counts.get(name, 0) + len(rows_MK)
    wrong = [name for name, total in sums.items() if not np.isfinite(total).all()]
    if wrong:
        raise GateFailed(f"{wrong[0]} is not finite during calibration; the model cannot be quantized")
    return {name: total / counts[name] for name, total in sums.items()}


def in_blocks(weight_KN: np.ndarray, size: int, moment_KK: np.ndarray | None = None) -> Blocks:
    """Round a weight to 4 bits in blocks of `size` inputs, for the inputs whose second moment is `moment_KK`.

    K is filled up with zeros to whole blocks; `codes` has those rows too.
    """
    import numpy as np

    inputs, outputs = weight_KN.shape
    missing = -inputs % size
    left_KN = np.pad(weight_KN.astype(np.float32), ((0, missing), (0, 0)))
    carry_KK = None if moment_KK is None else _carry(np.pad(moment_KK, (0, missing)))
    codes, scales, zeros = np.empty(left_KN.shape, np.uint8), [], []
    for start in range(0, len(left_KN), size):
        end = start + size
        scale_N, zero_N = _grid(left_KN[start:end])
        scales.append(scale_N)
        zeros.append(zero_N)
        if carry_KK is None:
            codes[start:end] = _codes(left_KN[start:end], scale_N, zero_N)
            continue
        errors_BN = np.empty((size, outputs), np.float32)
        for row in range(start, end):
            codes[row] = _codes(left_KN[row], scale_N, zero_N)
            error_N = (left_KN[row] - (codes[row] - zero_N) * scale_N) / carry_KK[row, row]
            left_KN[row + 1 : end] -= carry_KK[row, row + 1 : end, None] * error_N
            errors_BN[row - start] = error_N
        left_KN[end:] -= carry_KK[start:end, end:].T @ errors_BN
    return Blocks(codes, np.stack(scales), np.stack(zeros).astype(np.uint8))


def _carry(moment_KK: np.ndarray) -> np.ndarray:
    """Upper Cholesky factor of the inverse of the damped moment: row k says how an error of input k is passed on."""
    import numpy as np
    from scipy.linalg import cho_factor, cho_solve, cholesky

    damped = moment_KK.astype(np.float64)
    diagonal = np.diagonal(damped)
    mean = float(diagonal[diagonal > 0].mean()) if (diagonal > 0).any() else 1.0
    damped[np.diag_indices_from(damped)] += np.where(diagonal > 0, _DAMPING * mean, mean)
    inverse = cho_solve(cho_factor(damped, lower=True), np.eye(len(damped)))
    return cholesky(inverse, lower=False).astype(np.float32)


def _grid(block_BN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point, both (N,), of the range with the least squared error of rounding."""
    import numpy as np

    high, low = np.maximum(block_BN.max(axis=0), 0), np.minimum(block_BN.min(axis=0), 0)
    best = np.full(block_BN.shape[1], np.inf, np.float32)
    scale, zero = np.ones_like(best), np.zeros_like(best)
    for part in _RANGES:
        span = (high - low) * np.float32(part) / _TOP
        tried = np.where(span > 0, span, np.float32(1.0))
        zeros = np.clip(np.round(-low * np.float32(part) / tried), 0, _TOP)
        error = np.square((_codes(block_BN, tried, zeros) - zeros) * tried - block_BN).sum(axis=0)
        better = error < best
        best, scale, zero = (np.where(better, *pair) for pair in ((error, best), (tried, scale), (zeros, zero)))
    return scale, zero


def _codes(weight: np.ndarray, scale_N: np.ndarray, zero_N: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.clip(np.round(weight / scale_N) + zero_N, 0, _TOP)
