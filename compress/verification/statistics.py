"""Intervals and tests for paired comparisons. Counts and plain arrays in, fractions out; seeded, no global state.

Paired rates: on n samples the reference alone is right in `losses` of them and the candidate alone in `wins`;
the drop is (losses - wins) / n.  S samples, K columns, B resamples, U distinct rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

F64 = NDArray[np.float64]
_CHUNK_CELLS = 2_000_000


class Interval(NamedTuple):
    """A two-sided confidence interval, in the unit of the quantity that it describes."""

    low: float
    high: float


def critical_value(confidence: float) -> float:
    """z such that a standard normal lies in [-z, z] with probability `confidence`."""
    from scipy.special import ndtri

    return float(ndtri((1 + confidence) / 2))


def percentile_levels(samples: int, confidence: float) -> tuple[float, float]:
    """The two percentile levels of a bootstrap interval, widened for small samples.

    The plain percentile interval is too narrow by the factors z / t and sqrt((n - 1) / n); the levels
    Phi(-+ sqrt(n / (n - 1)) t) undo that (Hesterberg, The American Statistician 69, 2015, "expanded percentile").
    """
    from scipy.special import ndtr, stdtrit

    if samples < 2:
        return 0.0, 1.0
    reach = np.sqrt(samples / (samples - 1)) * stdtrit(samples - 1, (1 + confidence) / 2)
    return float(ndtr(-reach)), float(ndtr(reach))


# ---- paired rates ----


def count_bootstrap_interval(losses: int, wins: int, samples: int, confidence: float = 0.95) -> Interval:
    """Paired bootstrap percentile interval of the drop, without Monte Carlo error.

    Resampling n pairs and summing their differences in {-1, 0, 1} is a sum of n independent draws, so its whole
    distribution is an n-fold convolution, taken here as the n-th power of the characteristic function.
    """
    _check_counts(losses, wins, samples)
    if losses == wins == 0:
        return Interval(0.0, 0.0)
    size = 2 * samples + 1
    turn = np.exp(-2j * np.pi * np.arange(size) / size)
    step = 1 + (losses * (turn - 1) + wins * (turn.conj() - 1)) / samples
    mass = np.maximum(np.fft.fftshift(np.fft.ifft(step**samples).real), 0.0)
    cumulative = np.cumsum(mass) / mass.sum()
    levels = percentile_levels(samples, confidence)
    low, high = np.minimum(np.searchsorted(cumulative, levels), size - 1) - samples
    return Interval(float(low) / samples, float(high) / samples)


def tango_statistic(losses: ArrayLike, wins: ArrayLike, samples: int, margin: float) -> F64:
    """Score statistic of H0: drop = margin, standard normal under H0; very negative means the drop is smaller.

    T. Tango, Statistics in Medicine 17, 891-908 (1998), equations 15-18. `losses` and `wins` may be arrays.
    """
    b = np.asarray(losses, dtype=np.float64)
    c = np.asarray(wins, dtype=np.float64)
    linear = (2 * samples - b + c) * margin - b - c
    constant = -c * margin * (1 - margin)
    win_rate = (np.sqrt(linear**2 - 8 * samples * constant) - linear) / (4 * samples)
    variance = samples * (2 * win_rate + margin * (1 - margin))
    certain = variance <= 1e-12
    shift = b - c - samples * margin
    return np.asarray(np.where(certain, 0.0, shift / np.sqrt(np.where(certain, 1.0, variance))))


def tango_interval(losses: int, wins: int, samples: int, confidence: float = 0.95) -> Interval:
    """Tango's score interval of the drop. Unlike the bootstrap it stays honest when no answer changed at all."""
    from scipy.optimize import brentq

    _check_counts(losses, wins, samples)
    z = critical_value(confidence)
    drop = (losses - wins) / samples
    edge = 1 - 1e-9

    def end(sign: int) -> float:
        def excess(margin: float) -> float:
            return float(tango_statistic(losses, wins, samples, margin)) + sign * z

        if drop * sign > edge or sign * excess(sign * edge) > 0:
            return float(sign)
        return float(brentq(excess, drop, sign * edge, xtol=1e-12))

    return Interval(end(-1), end(1))


def paired_rate_interval(losses: int, wins: int, samples: int, confidence: float = 0.95) -> Interval:
    """The gate's interval of the drop: the paired bootstrap interval, widened to Tango's where that reaches further.

    The bootstrap cannot see beyond the samples (no change among 50 samples gives [0, 0]); the score interval can.
    """
    bootstrap = count_bootstrap_interval(losses, wins, samples, confidence)
    score = tango_interval(losses, wins, samples, confidence)
    return Interval(min(bootstrap.low, score.low), max(bootstrap.high, score.high))


def noninferiority_p(losses: int, wins: int, samples: int, margin: float) -> float:
    """One-sided p-value of H0: drop >= margin (Tango's score test)."""
    from scipy.special import ndtr

    _check_counts(losses, wins, samples)
    return float(ndtr(tango_statistic(losses, wins, samples, margin)))


def mcnemar_exact(losses: int, wins: int) -> float:
    """Two-sided exact McNemar p-value of H0: losses and wins are equally likely."""
    from scipy.special import bdtr

    if losses == wins:
        return 1.0
    return float(min(1.0, 2 * bdtr(min(losses, wins), losses + wins, 0.5)))


def rate_interval(hits: int, samples: int, confidence: float = 0.95) -> Interval:
    """Clopper-Pearson exact interval of a rate."""
    from scipy.special import betaincinv

    if not 0 <= hits <= samples or samples < 1:
        raise ValueError(f"{hits} hits in {samples} samples")
    tail = (1 - confidence) / 2
    low = float(betaincinv(hits, samples - hits + 1, tail)) if hits else 0.0
    high = float(betaincinv(hits + 1, samples - hits, 1 - tail)) if hits < samples else 1.0
    return Interval(low, high)


def _check_counts(losses: int, wins: int, samples: int) -> None:
    if losses < 0 or wins < 0 or samples < 1 or losses + wins > samples:
        raise ValueError(f"{losses} losses and {wins} wins in {samples} samples")


# ---- any statistic ----


def smoothed_interval(
    rows_SK: F64,
    low_EK: F64,
    high_EK: F64,
    of_weighted: Callable[[F64, F64], F64],
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Bootstrap percentile interval that also counts what was not seen: `of_weighted(rows [R, K], weights [B, R])`.

    The weights of the rows are Dirichlet(1, ..., 1) draws (the Bayesian bootstrap, Rubin 1981) over the S rows and one
    more: a row of `low_EK` for the lower end, one of `high_EK` for the upper, drawn anew each time. With the worst
    possible row this is the bound of Gaffke (Mathematical Methods of Statistics 14, 2005), which for rates is the
    exact interval of Clopper and Pearson; so samples that all agree never give an interval without width.
    The order of the rows matters to the draw: sort them first where that must not show.
    """
    distinct_UK, counts_U = np.unique(rows_SK, axis=0, return_counts=True)
    samples, distinct = len(rows_SK), len(distinct_UK)
    generator = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_CELLS // (distinct + max(len(low_EK), len(high_EK))))
    lows: list[F64] = []
    highs: list[F64] = []
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        seen_BU = _masses(generator, counts_U, size)
        for extra_EK, found in ((low_EK, lows), (high_EK, highs)):
            extra_BE = np.zeros((size, len(extra_EK)))
            chosen_B = generator.integers(0, len(extra_EK), size)
            extra_BE[np.arange(size), chosen_B] = generator.standard_exponential(size)
            mass_BR = np.concatenate([seen_BU, extra_BE], axis=1)
            weights_BR = mass_BR / mass_BR.sum(axis=1, keepdims=True)
            found.append(of_weighted(np.concatenate([distinct_UK, extra_EK]), weights_BR))
    levels = percentile_levels(samples, confidence)
    point = float(of_weighted(distinct_UK, counts_U[None, :] / samples)[0])
    low, high = np.quantile(np.concatenate(lows), levels[0]), np.quantile(np.concatenate(highs), levels[1])
    return Interval(min(float(low), point), max(float(high), point))


def _masses(generator: np.random.Generator, counts_U: NDArray[np.intp], size: int) -> F64:
    """Gamma draws [size, U], whose shares are a Dirichlet draw."""
    if counts_U.max() == 1:
        return generator.standard_exponential((size, len(counts_U)))
    return generator.standard_gamma(counts_U.astype(np.float64), (size, len(counts_U)))


def weighted_ranks(values_R: F64, weights_BR: F64) -> F64:
    """The rank of each value as the share of the weight below it, half of its ties' included: [B, R]."""
    order_R = np.argsort(values_R, kind="stable")
    sorted_R = values_R[order_R]
    starts_G = np.flatnonzero(np.r_[True, sorted_R[1:] != sorted_R[:-1]])
    mass_BG = np.add.reduceat(weights_BR[:, order_R], starts_G, axis=1)
    middle_BG = np.cumsum(mass_BG, axis=1) - mass_BG / 2
    group_R = np.empty(len(values_R), np.intp)
    group_R[order_R] = np.repeat(np.arange(len(starts_G)), np.diff(np.r_[starts_G, len(values_R)]))
    return np.asarray(middle_BG[:, group_R])


def weighted_correlation(x_BR: F64, y_BR: F64, weights_BR: F64) -> F64:
    """Pearson correlation [B] under weights that sum to 1; 0 where one side is constant."""
    x_BR = x_BR - (weights_BR * x_BR).sum(axis=1, keepdims=True)
    y_BR = y_BR - (weights_BR * y_BR).sum(axis=1, keepdims=True)
    spread = np.sqrt((weights_BR * x_BR**2).sum(axis=1) * (weights_BR * y_BR**2).sum(axis=1))
    covariance = (weights_BR * x_BR * y_BR).sum(axis=1)
    return np.asarray(np.where(spread > 1e-15, covariance / np.where(spread > 1e-15, spread, 1.0), 0.0))
