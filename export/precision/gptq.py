"""Weights in steps, fitted to what their layer reads on real inputs, so that its outputs change least.

Three known methods, one after the other, all of which lower the same squared error of the outputs: GPTQ (Frantar et
al., 2023, arXiv:2210.17323, algorithm 1, loudest inputs first) rounds one input after another, and the weights not
rounded yet make up for each error. The best scales of its codes have a closed form. Then each code moves to the best of
its steps while all others stand (coordinate descent; Behdin et al., 2023, arXiv:2309.01885). Without real inputs it is
rounding to the nearest step.

K inputs, N outputs, B inputs that share a scale and a zero point, G = K/B such blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from export.precision.blocks import Blocks, Grid, codes_of, joined, search_grid
from export.precision.calibrate import observe
from targets.errors import GateFailed

if TYPE_CHECKING:
    import numpy as np

#: Part of the mean second moment that is added to each: inputs that are sums of others leave the fit solvable.
_DAMPING = 0.01
#: How often scales and codes are fitted to each other; the third time gains less than a hundredth.
_ROUNDS = 2
#: Part of the mean that is added to the diagonal of the equations of scales: blocks of zeros leave them solvable.
_SOLVABLE = 1e-6
#: Inputs whose errors are passed on together: one product of matrices for each.
_PANEL = 64
#: Outputs that are fitted at once: they do not depend on each other, and this many fit into a cache.
_OUTPUTS = 4096
#: Positions after which a moment is known well enough: ten for each input of a layer of 1,536.
_POSITIONS = 16_384


def second_moments(
    model: Any, names: Sequence[str], batches: Iterable[Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Mean outer product (K,K) of each named value of the graph with itself, over the positions of as many batches as
    it takes to know it well. These are drawn from all of them, which may be in order of length.

    Raises InputError without a batch, GateFailed for a value that is not finite.
    """
    import numpy as np

    sums: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}
    given = list(batches)
    drawn = (given[place] for place in np.random.default_rng(0).permutation(len(given)))
    for values in observe(model, names, drawn):
        for name in names:
            rows_MK = values[name].reshape(-1, values[name].shape[-1])
            sums[name] = sums.get(name, 0.0) + (rows_MK.T @ rows_MK).astype(np.float64)
            counts[name] = counts.get(name, 0) + len(rows_MK)
        if min(counts.values()) >= _POSITIONS:
            break
    wrong = [name for name, total in sums.items() if not np.isfinite(total).all()]
    if wrong:
        raise GateFailed(f"{wrong[0]} is not finite during calibration; the model cannot be quantized")
    return {name: total / counts[name] for name, total in sums.items()}


def in_blocks(weight_KN: np.ndarray, size: int, moment_KK: np.ndarray | None = None) -> Blocks:
    """Round a weight to 4 bits in blocks of `size` inputs, for the inputs whose second moment is `moment_KK`.

    K is filled up with zeros to whole blocks; `codes` has those rows too.
    """
    import numpy as np

    missing = -len(weight_KN) % size
    weight_KN = np.pad(weight_KN.astype(np.float32), ((0, missing), (0, 0)))
    if moment_KK is None:
        grid = search_grid(weight_KN, size, np.ones(len(weight_KN)))
        return Blocks(grid, grid.nearest(weight_KN))
    moment_KK = _damped(np.pad(moment_KK, (0, missing)))
    carry_KK = _carry(moment_KK)
    starts = range(0, weight_KN.shape[1], _OUTPUTS)
    parts = [_fitted(weight_KN[:, start : start + _OUTPUTS], size, moment_KK, carry_KK) for start in starts]
    return joined(parts)


def _fitted(weight_KN: np.ndarray, size: int, moment_KK: np.ndarray, carry_KK: np.ndarray) -> Blocks:
    import numpy as np

    grid = search_grid(weight_KN, size, np.diagonal(moment_KK))
    codes_KN = _rounded(weight_KN, grid, moment_KK, carry_KK)
    moment_KK = moment_KK.astype(np.float32)
    for _ in range(_ROUNDS):
        grid = _rescaled(weight_KN, grid, codes_KN, moment_KK)
        codes_KN = _descended(weight_KN, grid, codes_KN, moment_KK)
    return Blocks(grid, codes_KN)


def _damped(moment_KK: np.ndarray) -> np.ndarray:
    import numpy as np

    damped = moment_KK.astype(np.float64)
    diagonal = np.diagonal(damped)
    mean = float(diagonal[diagonal > 0].mean()) if (diagonal > 0).any() else 1.0
    damped[np.diag_indices_from(damped)] += np.where(diagonal > 0, _DAMPING * mean, mean)
    return damped


def _panels(moment_KK: np.ndarray) -> list[np.ndarray]:
    """Inputs, the loudest first, in groups."""
    import numpy as np

    order = np.argsort(-np.diagonal(moment_KK), kind="stable")
    return [order[start : start + _PANEL] for start in range(0, len(order), _PANEL)]


def _carry(moment_KK: np.ndarray) -> np.ndarray:
    """Upper Cholesky factor of the moment's inverse, loudest inputs first: row k says how an error of input k is passed
    on."""
    import numpy as np
    from scipy.linalg import cho_factor, cho_solve, cholesky

    order = np.concatenate(_panels(moment_KK))
    inverse = cho_solve(cho_factor(moment_KK[np.ix_(order, order)], lower=True), np.eye(len(order)))
    return cholesky(inverse, lower=False).astype(np.float32)


def _rounded(weight_KN: np.ndarray, grid: Grid, moment_KK: np.ndarray, carry_KK: np.ndarray) -> np.ndarray:
    """Codes by GPTQ."""
    import numpy as np

    panels = _panels(moment_KK)
    left_KN, codes_KN = weight_KN[np.concatenate(panels)], np.empty(weight_KN.shape, np.uint8)
    end = 0
    for panel in panels:
        start, end = end, end + len(panel)
        errors_PN = np.empty((len(panel), weight_KN.shape[1]), np.float32)
        for row, k in enumerate(panel, start):
            scale_N, zero_N = grid.scales[k // grid.size], grid.zeros[k // grid.size]
            codes_KN[k] = codes_of(left_KN[row], scale_N, zero_N)
            error_N = (left_KN[row] - (codes_KN[k] - zero_N.astype(np.float32)) * scale_N) / carry_KK[row, row]
            left_KN[row + 1 : end] -= carry_KK[row, row + 1 : end, None] * error_N
            errors_PN[row - start] = error_N
        left_KN[end:] -= carry_KK[start:end, end:].T @ errors_PN
    return codes_KN


def _rescaled(weight_KN: np.ndarray, grid: Grid, codes_KN: np.ndarray, moment_KK: np.ndarray) -> Grid:
    """The scales of least squared error of the outputs for these codes: G equations for each output. A scale that would
    be half or twice as large as it was, or less than nothing, stays."""
    import numpy as np

    count, outputs = grid.levels.shape
    steps_GBN = (codes_KN - np.repeat(grid.zeros, grid.size, axis=0).astype(np.float32)).reshape(count, -1, outputs)
    wanted_NG = np.einsum("gbn,gbn->ng", steps_GBN, (moment_KK @ weight_KN).reshape(steps_GBN.shape))
    moment_GBGB = moment_KK.reshape(count, grid.size, count, grid.size)
    equations_NGG = np.empty((outputs, count, count), np.float32)
    for one in range(count):
        for other in range(one, count):
            product_N = np.einsum("bn,bn->n", steps_GBN[one], moment_GBGB[one, :, other] @ steps_GBN[other])
            equations_NGG[:, one, other] = equations_NGG[:, other, one] = product_N
    diagonal_NG = np.einsum("ngg->ng", equations_NGG)
    diagonal_NG += _SOLVABLE * diagonal_NG.mean(axis=1, keepdims=True) + np.float32(_SOLVABLE)
    scales_GN = np.linalg.solve(equations_NGG, wanted_NG[:, :, None])[:, :, 0].T
    alike = (scales_GN > grid.scales / 2) & (scales_GN < grid.scales * 2)
    return grid.rescaled(np.where(alike, scales_GN, grid.scales))


def _descended(weight_KN: np.ndarray, grid: Grid, codes_KN: np.ndarray, moment_KK: np.ndarray) -> np.ndarray:
    """Codes after each moved once to the best of its steps while all others stood. `pull` is what the error of the
    outputs gains by a larger weight."""
    import numpy as np

    values_KN, codes_KN = Blocks(grid, codes_KN).values(), codes_KN.copy()
    pull_KN = moment_KK @ (weight_KN - values_KN)
    for panel in _panels(moment_KK):
        pull_PN, moves_PN = pull_KN[panel], np.empty((len(panel), weight_KN.shape[1]), np.float32)
        for place, k in enumerate(panel):
            scale_N, zero_N = grid.scales[k // grid.size], grid.zeros[k // grid.size]
            codes_KN[k] = codes_of(values_KN[k] + pull_PN[place] / moment_KK[k, k], scale_N, zero_N)
            moves_PN[place] = (codes_KN[k] - zero_N.astype(np.float32)) * scale_N - values_KN[k]
            pull_PN[place + 1 :] -= moment_KK[panel[place + 1 :], k, None] * moves_PN[place]
        pull_KN -= moment_KK[:, panel] @ moves_PN
    return codes_KN
