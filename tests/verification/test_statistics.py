"""Intervals and tests against brute force, closed forms and scipy's own."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.verification import statistics
from compress.verification.statistics import Interval

counts = st.integers(2, 200).flatmap(
    lambda n: st.tuples(st.integers(0, n), st.just(n)).flatmap(
        lambda pair: st.tuples(st.just(pair[0]), st.integers(0, pair[1] - pair[0]), st.just(pair[1]))
    )
)


@pytest.mark.parametrize(("losses", "wins", "samples"), [(12, 5, 100), (3, 0, 80), (0, 9, 60), (30, 31, 90)])
def test_the_exact_bootstrap_agrees_with_brute_force_resampling(losses: int, wins: int, samples: int) -> None:
    differences = np.repeat([1, -1, 0], [losses, wins, samples - losses - wins])
    generator = np.random.default_rng(1)
    drops = [generator.choice(differences, samples).mean() for _ in range(20_000)]
    low, high = statistics.percentile_levels(samples, 0.95)
    ours = statistics.count_bootstrap_interval(losses, wins, samples)
    step = 1 / samples
    assert ours.low == pytest.approx(np.quantile(drops, low, method="inverted_cdf"), abs=1.01 * step)
    assert ours.high == pytest.approx(np.quantile(drops, high, method="inverted_cdf"), abs=1.01 * step)


def test_the_exact_bootstrap_of_one_kind_of_change_is_the_binomial() -> None:
    levels = statistics.percentile_levels(500, 0.9)
    expected = scipy.stats.binom.ppf(levels, 500, 20 / 500) / 500
    assert statistics.count_bootstrap_interval(20, 0, 500, 0.9) == pytest.approx(tuple(expected))


def test_levels_are_the_plain_percentiles_for_large_samples_and_wider_for_small_ones() -> None:
    assert statistics.percentile_levels(10**6, 0.95) == pytest.approx((0.025, 0.975), abs=1e-5)
    assert statistics.percentile_levels(10, 0.95)[0] < 0.01
    assert statistics.percentile_levels(1, 0.95) == (0.0, 1.0)


def brute_tango(losses: int, wins: int, samples: int, margin: float) -> float:
    """Score statistic with the restricted likelihood maximized by search instead of the closed form."""
    from scipy.optimize import minimize_scalar

    def negative_log_likelihood(win_rate: float) -> float:
        loss_rate = win_rate + margin
        rest = 1 - loss_rate - win_rate
        terms = ((losses, loss_rate), (wins, win_rate), (samples - losses - wins, rest))
        return -sum(count * math.log(max(rate, 1e-300)) for count, rate in terms if count)

    low, high = max(0.0, -margin), (1 - margin) / 2
    win_rate = minimize_scalar(
        negative_log_likelihood, bounds=(low, high), method="bounded", options={"xatol": 1e-12}
    ).x
    variance = samples * (2 * win_rate + margin - margin**2)
    return float((losses - wins - samples * margin) / math.sqrt(variance))


@given(counts, st.floats(-0.3, 0.3))
@settings(max_examples=60, deadline=None)
def test_tangos_statistic_agrees_with_a_searched_maximum_likelihood(case: tuple[int, int, int], margin: float) -> None:
    losses, wins, samples = case
    if abs(margin) < 1e-3:
        return
    ours = float(statistics.tango_statistic(losses, wins, samples, margin))
    assert ours == pytest.approx(brute_tango(losses, wins, samples, margin), rel=2e-3, abs=2e-3)


def test_the_score_interval_ends_where_a_searched_maximum_likelihood_test_stops_rejecting() -> None:
    z = float(scipy.stats.norm.ppf(0.975))
    low, high = statistics.tango_interval(9, 2, 120)
    assert brute_tango(9, 2, 120, high) == pytest.approx(-z, abs=1e-3)
    assert brute_tango(9, 2, 120, low) == pytest.approx(z, abs=1e-3)


def test_tangos_interval_without_any_change_has_its_closed_form() -> None:
    z2 = scipy.stats.norm.ppf(0.975) ** 2
    low, high = statistics.tango_interval(0, 0, 100)
    assert high == pytest.approx(z2 / (100 + z2), rel=1e-6) and low == pytest.approx(-high)


@given(counts)
@settings(deadline=None)
def test_intervals_hold_the_point_estimate_and_mirror_when_the_sides_swap(case: tuple[int, int, int]) -> None:
    losses, wins, samples = case
    drop = (losses - wins) / samples
    for interval in (statistics.tango_interval, statistics.paired_rate_interval):
        low, high = interval(losses, wins, samples)
        assert -1 <= low <= drop + 1e-12 and drop - 1e-12 <= high <= 1
        mirrored = interval(wins, losses, samples)
        assert (-mirrored.high, -mirrored.low) == pytest.approx((low, high), abs=1.01 / samples)


@given(counts)
@settings(deadline=None)
def test_mcnemar_agrees_with_the_exact_binomial(case: tuple[int, int, int]) -> None:
    losses, wins, _ = case
    expected = scipy.stats.binomtest(losses, losses + wins).pvalue if losses + wins else 1.0
    assert statistics.mcnemar_exact(losses, wins) == pytest.approx(expected)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_rate_interval_agrees_with_scipy(case: tuple[int, int]) -> None:
    expected = scipy.stats.binomtest(*case).proportion_ci(0.95, method="exact")
    assert statistics.rate_interval(*case) == pytest.approx((expected.low, expected.high))


@given(counts, st.floats(0.01, 0.2))
@settings(deadline=None)
def test_the_one_sided_test_rejects_exactly_when_the_interval_ends_below_the_margin(
    case: tuple[int, int, int], margin: float
) -> None:
    p = statistics.noninferiority_p(*case, margin)
    high = statistics.tango_interval(*case).high
    if abs(high - margin) > 1e-9:
        assert (p < 0.025) == (high < margin)


@given(st.integers(2, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@settings(max_examples=15, deadline=None)
def test_the_smoothed_interval_of_a_rate_is_the_exact_one_of_clopper_and_pearson(case: tuple[int, int]) -> None:
    hits, samples = case
    rows = np.repeat([[1.0], [0.0]], [hits, samples - hits], axis=0)
    none, one = np.zeros((1, 1)), np.ones((1, 1))
    low, high = statistics.smoothed_interval(rows, none, one, means, resamples=40_000)
    levels = statistics.percentile_levels(samples, 0.95)
    expected = scipy.stats.beta.ppf(levels, [hits, hits + 1], [samples - hits + 1, samples - hits])
    spread = math.sqrt(1 / samples)
    assert (low, high) == pytest.approx(tuple(np.nan_to_num(expected, nan=float(hits > 0))), abs=0.05 * spread)


def means(rows_RK: np.ndarray, weights_BR: np.ndarray) -> np.ndarray:
    return (weights_BR @ rows_RK)[:, 0]


def test_on_many_samples_that_vary_the_smoothed_interval_is_that_of_the_plain_bootstrap() -> None:
    generator = np.random.default_rng(0)
    for rows in (generator.normal(size=(3000, 1)), generator.integers(0, 3, (3000, 1)).astype(float)):
        draws = [generator.choice(rows[:, 0], len(rows)).mean() for _ in range(4000)]
        expected = np.quantile(draws, statistics.percentile_levels(len(rows), 0.95))
        ours = statistics.smoothed_interval(rows, rows[:9], rows[:9], means, resamples=4000, seed=3)
        assert ours == pytest.approx(tuple(expected), abs=0.08 * (expected[1] - expected[0]))


@given(st.lists(st.integers(0, 5), min_size=3, max_size=40), st.integers(0, 1000))
@settings(deadline=None)
def test_a_weighted_rank_correlation_is_that_of_rows_repeated_as_often_as_they_weigh(
    counts: list[int], seed: int
) -> None:
    counts_R = np.array([*counts, 1, 1])
    rows = np.random.default_rng(seed).integers(0, 9, (len(counts_R), 2)).astype(float)
    weights = counts_R[None, :] / counts_R.sum()
    ranks = [statistics.weighted_ranks(column, weights) for column in rows.T]
    ours = statistics.weighted_correlation(ranks[0], ranks[1], weights)[0]
    repeated = np.repeat(rows, counts_R, axis=0)
    constant = np.ptp(repeated, axis=0).min() == 0
    expected = 0.0 if constant else scipy.stats.spearmanr(repeated[:, 0], repeated[:, 1]).statistic
    assert ours == pytest.approx(expected, abs=1e-9)


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_the_bootstrap_is_seeded_and_blind_to_the_order_of_rows(seed: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(50, 2))

    def ratio(rows_RK: np.ndarray, weights_BR: np.ndarray) -> np.ndarray:
        return (weights_BR @ rows_RK).sum(axis=1)

    first = statistics.smoothed_interval(rows, rows[:1], rows[:1], ratio, resamples=200, seed=seed)
    order = np.random.default_rng(seed + 1).permutation(50)
    assert statistics.smoothed_interval(rows[order], rows[:1], rows[:1], ratio, resamples=200, seed=seed) == first
    assert isinstance(first, Interval) and first.low < first.high


@pytest.mark.parametrize("bad", [(-1, 0, 5), (0, -1, 5), (3, 3, 5), (0, 0, 0)])
def test_impossible_counts_are_refused(bad: tuple[int, int, int]) -> None:
    for function in (statistics.count_bootstrap_interval, statistics.tango_interval):
        with pytest.raises(ValueError, match="samples"):
            function(*bad)
