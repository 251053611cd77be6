"""What judges, at its edges: defaults, exact bounds, and numbers that were worked out apart."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import binomtest, multinomial, norm, t

from compress.verification import gate, power, statistics
from compress.verification.drift import CONFUSION_CHANGES, compare
from compress.verification.early import Decision, EarlyStop
from compress.verification.estimate import Estimate, Sampling, estimate_drop, estimate_value
from compress.verification.gate import default_gate
from compress.verification.metric import micro_f1, most_right, neighbours, none_right, sort_rows
from compress.verification.metrics import METRICS
from compress.verification.outcome import Status
from compress.verification.predictions import Predictions
from compress.verification.sequential import SequentialTest
from compress.verification.statistics import Interval, tango_statistic
from targets.errors import MOST_CHARACTERS, InputError


def answers(right: np.ndarray, classes: int = 4) -> Predictions:
    labels = np.arange(len(right)) % classes
    return Predictions(np.eye(classes)[(labels + ~right) % classes], labels)


def pair(samples: int, losses: int, wins: int) -> tuple[Predictions, Predictions]:
    places = np.arange(samples)
    return answers((places < losses) | (places >= losses + wins)), answers(places >= losses)


TOP1 = {"metric": "top1", "max_drop": 5.0}

# ---- power ----


@pytest.mark.parametrize("discordance", [0.05, 0.2, 0.6])
@pytest.mark.parametrize("drop", [0.02, 0.3, 0.7])
def test_the_required_samples_follow_from_the_variance_of_the_gates_own_statistic(
    drop: float, discordance: float
) -> None:
    many = 10**8
    half = discordance / 2 * many
    deviation = -many * drop / float(tango_statistic(half, half, many, drop)) / math.sqrt(many)
    reach = ndtri(0.975) * deviation + ndtri(0.8) * math.sqrt(discordance)
    assert power.required_samples(drop, discordance) == math.ceil((reach / drop) ** 2)


def test_a_design_needs_one_sample_at_least_and_some_power() -> None:
    assert power.required_samples(0.99, 0.0) == 1
    with pytest.raises(ValueError, match="power"):
        power.required_samples(0.01, 0.1, power=0.0)
    with pytest.raises(ValueError, match="power"):
        power.required_samples(1.0, 0.1)
    assert power.detectable_drop(1, 1.0, power=0.95) == 1 - 1e-9
    enough = power.required_samples(0.01, 0.04)
    assert power.power_sentence(enough, 0.04, 0.01) is None and power.power_sentence(enough - 1, 0.04, 0.01)


@pytest.mark.parametrize(("loss_rate", "win_rate", "margin"), [(0.05, 0.9, 0.5), (0.5, 0.5, 0.6), (0.2, 0.3, 0.4)])
def test_the_pass_probability_is_the_sum_over_all_outcomes(loss_rate: float, win_rate: float, margin: float) -> None:
    n, z = 6, statistics.critical_value(0.95)
    outcomes = [(b, c) for b, c in itertools.product(range(n + 1), repeat=2) if b + c <= n]
    passing = [(b, c, n - b - c) for b, c in outcomes if float(tango_statistic(b, c, n, margin)) <= -z]
    expected = multinomial.pmf(passing, n, [loss_rate, win_rate, 1 - loss_rate - win_rate]).sum()
    assert power.pass_probability(n, loss_rate, win_rate, margin) == pytest.approx(expected) and expected > 0.1


def test_the_sum_has_the_counts_within_8_deviations_and_8_of_the_means(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def kept(losses: np.ndarray, wins: np.ndarray, *rest: float) -> np.ndarray:
        seen["losses"], seen["wins"] = losses, wins
        return tango_statistic(losses, wins, *rest)

    monkeypatch.setattr(power, "tango_statistic", kept)
    power.pass_probability(10_000, 0.01, 0.02, 0.05)
    reach = [8 * math.sqrt(10_000 * rate * (1 - rate)) + 8 for rate in (0.01, 0.02)]
    assert (seen["losses"].min(), seen["losses"].max()) == (math.floor(100 - reach[0]), math.ceil(100 + reach[0]))
    assert (seen["wins"].min(), seen["wins"].max()) == (math.floor(200 - reach[1]), math.ceil(200 + reach[1]))


def test_a_statistic_at_the_critical_value_passes_everywhere() -> None:
    assert power.pass_probability(10, 0.0, 0.0, 0.0, confidence=0.0) == 1.0
    test = SequentialTest(10, 0.0, confidence=0.0)
    assert test._all_pass(0, 0, 0) and not test._all_fail(0, 0, 0)


def test_the_sentences_on_samples_hold_the_numbers() -> None:
    assert power.power_sentence(100, 0.1, 0.0) is None and power.power_sentence(100, 0.1, 1.0) is None
    sentence = power.power_sentence(872, 0.04, 0.01)
    assert sentence is not None and sentence.endswith(f"prove {100 * power.detectable_drop(872, 0.04):.2g}")
    for samples in (100, 200, 400, 700):  # a percent more is seen in one of them
        able = f"prove {100 * power.detectable_drop(samples, 0.04):.2g}"
        assert str(power.power_sentence(samples, 0.04, 0.01)).endswith(able)
    assert power.reach_sentence(100, 3.0, 1.0) == (
        "100 samples cannot tell it: that takes about 900 that differ as these do"
    )
    assert "about 1,000,000,000 that" in str(power.reach_sentence(1000, 1000.0, 1.0))
    assert power.reach_sentence(1000, 2000.0, 1.0) == "1,000 samples cannot tell it"
    assert [power.reach_sentence(100, reach, room) for reach, room in ((1, 2), (1, 0), (1, -1), (1, 1))] == [None] * 4
    assert "about 400 that" in str(power.reach_sentence(100, 4.0, 2.0))


# ---- stopping early ----


def test_a_sequential_test_has_20_looks_and_refuses_what_is_none() -> None:
    assert len(SequentialTest(1000, 0.01).look_points()) == 20
    assert SequentialTest(1, 0.1).look_points() == [1]
    for wrong in ({"samples": 0}, {"looks": 0}, {"error": 1.0}, {"error": -0.1}):
        with pytest.raises(ValueError, match="looks"):
            SequentialTest(**{"samples": 10, "margin": 0.1, **wrong})


def test_no_more_can_be_lost_than_there_are_samples() -> None:
    assert SequentialTest(1000, 0.01).verdict(500, 500, 0) is False
    assert SequentialTest(1000, 0.01)._final_range(500, 500)[1] == 1000
    assert not SequentialTest(100, 0.5)._all_pass(10, 95, 100)


def test_a_verdict_on_all_samples_is_that_of_the_wider_interval_also_where_it_ends_at_the_bound() -> None:
    found = 0
    for samples, losses, wins in itertools.product((40, 60, 100), range(12), range(4)):
        wide = statistics.count_bootstrap_interval(losses, wins, samples).high
        score = statistics.tango_interval(losses, wins, samples).high
        if wide <= score + 1e-6:
            continue
        between, at = SequentialTest(samples, (wide + score) / 2), SequentialTest(samples, wide)
        assert between.verdict(samples, losses, wins) is False
        assert at.verdict(samples, losses, wins) is True
        found += 1
    assert found > 3


def test_one_check_has_the_whole_error_and_a_bound_of_everything_is_never_certain() -> None:
    one = gate.parse({"stop_early": 0.01, "check": [{"metric": "top1", "max_drop": 5.0}]})
    assert [test.error for test in EarlyStop(one, 400)._tests.values()] == [0.01]
    everything = gate.parse({"stop_early": 0.01, "check": [{"metric": "top1", "max_drop": 100.0}]})
    assert not EarlyStop(everything, 400)._tests
    for least in (50, 400):
        exact = gate.parse({"stop_early": 0.01, "min_samples": least, "check": [{"metric": "top1", "max_drop": 5.0}]})
        assert len(EarlyStop(exact, least)._tests) == 1 and not EarlyStop(exact, least - 1)._tests
    assert EarlyStop(gate.parse({"stop_early": 0, "min_samples": 1, "check": [TOP1]}), 400)._least == 1
    result = one.judge(*pair(400, 0, 0))
    assert "certain (logically)" in Decision(400, 800, 0.0, {0: True}).settle(result).message
    assert "certain (up to an error of 1 %)" in Decision(400, 800, 0.01, {0: True}).settle(result).message


# ---- statistics ----


def test_intervals_reach_the_last_count() -> None:
    assert statistics.count_bootstrap_interval(50, 0, 50) == (1.0, 1.0)
    assert statistics.count_bootstrap_interval(1, 0, 1).high == 1.0
    assert float(tango_statistic(0, 0, 20, 0.0)) == 0.0


def test_the_score_interval_ends_where_its_statistic_is_critical_on_both_sides() -> None:
    z = statistics.critical_value(0.95)
    low, high = statistics.tango_interval(9, 2, 120)
    assert float(tango_statistic(9, 2, 120, low)) == pytest.approx(z) and low < 7 / 120 < high
    assert float(tango_statistic(9, 2, 120, high)) == pytest.approx(-z)
    assert statistics.tango_interval(30, 0, 30).high == 1.0 and statistics.tango_interval(0, 30, 30).low == -1.0
    assert statistics.tango_interval(0, 0, 5).low == pytest.approx(-statistics.tango_interval(0, 0, 5).high)


def test_exact_p_values_and_rates_are_those_of_the_binomial() -> None:
    for losses, wins in ((1, 9), (3, 12), (40, 41), (0, 1)):
        expected = binomtest(losses, losses + wins).pvalue
        assert statistics.mcnemar_exact(losses, wins) == pytest.approx(expected)
    for hits, samples in ((0, 20), (1, 20), (19, 20), (20, 20), (130, 300)):
        exact = binomtest(hits, samples).proportion_ci(0.95, method="exact")
        assert statistics.rate_interval(hits, samples) == pytest.approx((exact.low, exact.high))


def test_the_levels_of_few_samples_are_those_of_students_t() -> None:
    for samples in (2, 5, 30):
        reach = math.sqrt(samples / (samples - 1)) * t.ppf(0.975, samples - 1)
        assert statistics.percentile_levels(samples, 0.95) == pytest.approx((norm.cdf(-reach), norm.cdf(reach)))


def test_nothing_changed_has_no_bootstrap_interval_and_one_change_has() -> None:
    assert statistics.count_bootstrap_interval(0, 0, 30) == (0.0, 0.0)
    assert statistics.count_bootstrap_interval(1, 1, 30).low < 0 < statistics.count_bootstrap_interval(1, 1, 30).high
    assert statistics.count_bootstrap_interval(0, 30, 30) == (-1.0, -1.0)


def test_weighted_correlations_are_those_of_plain_rows_and_none_where_a_side_is_constant() -> None:
    x, y, weights = np.array([[1.0, 2.0, 2.0, 5.0]]), np.array([[9.0, 7.0, 8.0, 4.0]]), np.full((1, 4), 0.25)
    assert statistics.weighted_correlation(x, y, weights) == pytest.approx(np.corrcoef(x[0], y[0])[0, 1])
    assert statistics.weighted_correlation(x, np.ones((1, 4)), weights).tolist() == [0.0]
    assert statistics.weighted_ranks(x[0], weights).tolist() == [[0.125, 0.5, 0.5, 0.875]]


@pytest.mark.parametrize(("hits", "samples"), [(3, 2), (-1, 5), (0, 0)])
def test_impossible_rates_are_refused(hits: int, samples: int) -> None:
    with pytest.raises(ValueError, match=f"{hits} hits in {samples} samples"):
        statistics.rate_interval(hits, samples)


def test_draws_are_as_many_as_asked_for_and_held_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, ends, sizes = np.arange(20.0)[:, None], np.zeros((1, 1)), list[int]()

    def mean(rows_RK: np.ndarray, weights_BR: np.ndarray) -> np.ndarray:
        sizes.append(len(weights_BR))
        return (weights_BR @ rows_RK)[:, 0]

    assert statistics.smoothed_interval(rows, ends, ends, mean) == statistics.smoothed_interval(
        rows, ends, ends, mean, 0.95, 2000, 0
    )
    for cells, most in ((150, 7), (10, 1)):
        sizes.clear()
        monkeypatch.setattr(statistics, "_CHUNK_CELLS", cells)
        statistics.smoothed_interval(rows, ends, ends, mean, resamples=250)
        assert sum(sizes) == 2 * 250 + 1 and max(sizes) == most


# ---- metrics ----


def test_micro_f1_and_what_failing_costs_are_plain_arithmetic() -> None:
    means = np.array([[0.2, 0.3, 0.4], [0.0, 0.0, 0.0], [2.0, 3.0, 5.0]])
    assert micro_f1(means) == pytest.approx([100 * 0.4 / 0.7, 0.0, 50.0])
    rows = np.array([[0.0, 0.0, 2.0], [3.0, 4.0, 5.0]])
    assert none_right(rows).tolist() == [[0, 1, 2], [0, 4, 5]]
    assert sort_rows(np.array([[2.0, 0.0], [1.0, 9.0], [1.0, 3.0]])).tolist() == [[1, 3], [1, 9], [2, 0]]
    assert most_right(np.array([[1.0, 9.0], [3.0, 2.0], [3.0, 0.0]])).tolist() == [False, True, True]
    order = np.random.default_rng(0).permutation(8)
    assert neighbours(np.arange(8.0)[:, None])[order, 0].tolist() == np.roll(order, 4).tolist()
    for count in (2, 3):
        assert all(neighbours(np.arange(count)[:, None]).ravel() != np.arange(count))


def test_the_places_of_unseen_samples_are_spread_over_all_rows() -> None:
    metric = METRICS["kl"]
    assert metric.failed(np.arange(10.0)[:, None])[0].tolist() == list(range(10))
    places = metric.failed(np.arange(1000.0)[:, None])[0]
    assert len(places) == 128 and (places[0], places[-1]) == (0, 999)


def test_sides_of_other_labels_have_no_metric_together() -> None:
    right = np.ones(60, bool)
    with pytest.raises(InputError, match="agreement cannot be computed"):
        METRICS["agreement"].value(answers(right), answers(right, classes=5))


def test_a_rate_of_both_sides_has_the_exact_interval_and_no_samples_have_none() -> None:
    reference, candidate = pair(500, 20, 0)
    rows = METRICS["agreement"].rows(reference, candidate)
    estimate = estimate_value(METRICS["agreement"], rows, Sampling())
    assert estimate.interval == pytest.approx([100 * end for end in statistics.rate_interval(480, 500)])
    kl = estimate_value(METRICS["kl"], METRICS["kl"].rows(reference, candidate), Sampling())
    assert kl.interval is not None and kl.interval.low < kl.value < kl.interval.high
    assert estimate_value(METRICS["agreement"], np.empty((0, 1)), Sampling()).samples == 0
    assert estimate_drop(METRICS["top1"], np.empty((0, 1)), np.empty((0, 1)), Sampling()).samples == 0


# ---- the gate ----


@pytest.mark.parametrize(("losses", "wins"), [(60, 20), (0, 20), (60, 0)])
def test_p_values_are_those_of_the_counts_and_the_bound(losses: int, wins: int) -> None:
    check = default_gate("top1", 1.0).judge(*pair(10_000, losses, wins)).checks[0]
    assert check.p_mcnemar == statistics.mcnemar_exact(losses, wins)
    assert check.p_noninferior == statistics.noninferiority_p(losses, wins, 10_000, 0.01)


def test_an_interval_that_ends_at_the_bound_passes_and_shows_its_digits() -> None:
    sides = pair(2000, 40, 10)
    for bound, metric in (("min_value", "agreement"), ("max_drop", "top1")):
        loose = gate.parse({"check": [{"metric": metric, bound: 50.0}]}).judge(*sides).checks[0]
        at = gate.parse({"check": [{"metric": metric, bound: loose.worst}]}).judge(*sides)
        assert at and f"at worst {loose.worst:.4f}" in at.message
        assert f"at worst {loose.worst:.2f} " in loose.message


def test_what_is_set_and_what_is_not() -> None:
    plain = gate.parse({"check": [{"metric": "top1", "max_drop": 1.0, "min_samples": 1}], "min_samples": 1})
    assert plain.seed == 0 == default_gate("top1", 1.0).seed and plain.sampling() == Sampling()
    assert Sampling() == Sampling(0.95, 2000, 0)
    with pytest.raises(InputError, match="resamples"):
        gate.parse({"check": [TOP1], "resamples": 100_001})
    with pytest.raises(InputError, match="stop_early"):
        gate.parse({"check": [{"metric": "top1", "max_drop": 1.0}], "stop_early": 0.02})
    with pytest.raises(InputError, match="no metric is called 'nope'") as caught:
        gate.parse({"check": [{"metric": "nope", "max_drop": 1.0}]})
    assert "given:" not in str(caught.value)
    assert default_gate("top1", 100.0).judge(*pair(400, 3, 0)).checks[0].p_noninferior is None


def test_a_line_has_four_digits_only_beside_its_bound_and_percent_only_of_a_relative_one() -> None:
    sides = pair(2000, 40, 10)
    worst = default_gate("top1", 50.0).judge(*sides).checks[0].worst
    assert worst is not None
    assert f"at worst {worst:.2f} " in default_gate("top1", worst + 0.5).judge(*sides).message
    assert " %)" not in default_gate("top1", 50.0).judge(*sides).message.split("allowed")[1]
    relative = gate.parse({"check": [{"metric": "top1", "max_relative_drop": 20.0}]}).judge(*sides)
    assert relative.message.endswith("(20 %)")


def test_the_reference_is_asked_whether_it_knows_anything_from_the_least_number_of_samples_on() -> None:
    side = answers(np.arange(60) % 4 == 0)
    for least, words in ((60, "reference: right in"), (61, "too few to judge")):
        judged = gate.parse({"min_samples": least, "check": [TOP1]}).judge(side, side)
        assert judged.status is Status.ERROR and words in judged.message


def test_a_drop_of_everything_has_no_p_value() -> None:
    for value in (-1.0, 1.0, 1.5):
        assert gate._score_p(Estimate(100, 0.0, None, losses=3, wins=0), value) is None


def test_a_relative_bound_on_nothing_allows_nothing() -> None:
    one = gate.parse({"check": [{"metric": "f1_macro", "max_relative_drop": 100.0}]})
    estimate = Estimate(100, 0.5, Interval(0.5, 0.5), 0.0, -0.5)
    assert one._decide(one.check[0], METRICS["f1_macro"], "overall", estimate).status is Status.FAIL


def test_a_gate_of_another_metric_says_how_many_samples_it_may_take() -> None:
    reference, candidate = pair(300, 4, 0)
    result = gate.parse({"check": [{"metric": "agreement", "min_value": 98.0}]}).judge(reference, candidate)
    check = result.checks[0]
    assert check.status is Status.FAIL and check.value is not None and check.worst is not None
    hint = power.reach_sentence(300, check.value - check.worst, check.value - 98.0)
    assert hint is not None and check.message.endswith(hint)


def test_a_wrong_mask_counts_no_samples_and_a_long_name_leaves_room_in_the_line() -> None:
    judged = gate.parse({"check": [{"metric": "top1", "per": "slice", "max_drop": 1.0}]})
    wrong = judged.judge(*pair(400, 0, 0), {"a": np.ones(3, bool)}).checks[0]
    assert wrong.status is Status.ERROR and wrong.samples == 0
    long = judged.judge(*pair(400, 0, 0), {"n" * 500: np.ones(400, bool)}).checks[0]
    assert len(long.message) == MOST_CHARACTERS - 30


# ---- drift ----


def test_at_most_twenty_confusions_are_told_and_one_changed_answer_is_one() -> None:
    labels = np.arange(600) % 30
    logits = np.eye(30)[labels]
    moved = logits.copy()
    moved[:30] = np.eye(30)[(labels[:30] + 1) % 30]
    judged = default_gate("top1", 50.0)
    drift = compare(Predictions(logits, labels), Predictions(moved, labels), judged)
    assert len(drift.confusion) == CONFUSION_CHANGES == 20 and drift.copies == 0
    moved[1:30] = logits[1:30]
    drift = compare(Predictions(logits, labels), Predictions(moved, labels), judged)
    assert [(one.label, one.predicted, one.candidate) for one in drift.confusion] == [("0", "1", 1)]
    assert drift.to_json().startswith('{\n  "samples": 600')
