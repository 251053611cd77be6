"""Power analysis and early stopping against simulation and exhaustive enumeration."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.verification import power, statistics
from compress.verification.sequential import SequentialTest


@pytest.mark.parametrize("discordance", [0.01, 0.04, 0.1])
@pytest.mark.parametrize("wanted", [0.8, 0.95])
def test_the_required_samples_give_the_wanted_power_by_exact_enumeration(discordance: float, wanted: float) -> None:
    samples = power.required_samples(0.01, discordance, wanted)
    reached = power.pass_probability(samples, discordance / 2, discordance / 2, 0.01)
    assert reached == pytest.approx(wanted, abs=0.03)


def test_the_enumerated_pass_probability_agrees_with_simulation() -> None:
    generator = np.random.default_rng(0)
    draws = generator.multinomial(300, [0.04, 0.03, 0.93], size=20_000)
    z = statistics.critical_value(0.95)
    simulated = (statistics.tango_statistic(draws[:, 0], draws[:, 1], 300, 0.05) <= -z).mean()
    assert power.pass_probability(300, 0.04, 0.03, 0.05) == pytest.approx(simulated, abs=0.015)


@pytest.mark.parametrize("samples", [200, 872, 5000])
@pytest.mark.parametrize("discordance", [0.005, 0.05, 0.2])
def test_a_candidate_at_the_bound_passes_in_at_most_five_percent(samples: int, discordance: float) -> None:
    margin = max(0.01, discordance / 4)
    loss_rate, win_rate = max(discordance, margin), max(discordance, margin) - margin
    assert power.pass_probability(samples, loss_rate, win_rate, margin) <= 0.05


def test_without_any_change_the_need_is_that_of_the_score_bound() -> None:
    needed = power.required_samples(0.01, 0.0)
    assert statistics.tango_interval(0, 0, needed).high <= 0.01 < statistics.tango_interval(0, 0, needed - 1).high


@given(st.integers(50, 20_000), st.floats(0, 0.3))
@settings(deadline=None)
def test_the_detectable_drop_inverts_the_required_samples(samples: int, discordance: float) -> None:
    drop = power.detectable_drop(samples, discordance)
    assert power.required_samples(drop, discordance) <= samples
    if drop > 1e-3:
        assert power.required_samples(0.99 * drop, discordance) > samples


def test_the_sentence_names_the_samples_that_are_needed() -> None:
    sentence = power.power_sentence(872, 0.04, 0.01)
    assert sentence is not None
    assert "872" in sentence and f"{power.required_samples(0.01, 0.04):,}" in sentence
    assert power.power_sentence(100_000, 0.04, 0.01) is None


@pytest.mark.parametrize("bad", [(0.0, 0.1, 0.8), (0.01, 1.5, 0.8), (0.01, 0.1, 1.0)])
def test_impossible_designs_are_refused(bad: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="drop"):
        power.required_samples(*bad)


def full_verdict(losses: int, wins: int, samples: int, margin: float) -> bool:
    return statistics.paired_rate_interval(losses, wins, samples).high <= margin


@given(st.integers(20, 150), st.integers(0, 10_000), st.floats(0.02, 0.3), st.floats(0, 0.3), st.floats(0, 0.1))
@settings(deadline=None, max_examples=150)
def test_stopping_without_allowed_error_never_differs_from_the_full_test(
    samples: int, seed: int, margin: float, loss_rate: float, win_rate: float
) -> None:
    generator = np.random.default_rng(seed)
    step = generator.choice([1, -1, 0], samples, p=[loss_rate, win_rate, 1 - loss_rate - win_rate])
    step = np.sort(step) if seed % 2 else step
    full = full_verdict(int((step == 1).sum()), int((step == -1).sum()), samples, margin)
    test = SequentialTest(samples, margin, error=0.0, looks=10)
    for seen in test.look_points():
        early = test.verdict(seen, int((step[:seen] == 1).sum()), int((step[:seen] == -1).sum()))
        assert early is None or early == full
    assert early == full


@pytest.mark.parametrize(("loss_rate", "win_rate"), [(0.02, 0.02), (0.035, 0.015), (0.08, 0.01)])
def test_early_verdicts_differ_within_the_stated_error_and_save_samples(loss_rate: float, win_rate: float) -> None:
    test = SequentialTest(3000, 0.02, error=0.02, looks=10)
    generator = np.random.default_rng(5)
    differ, seen_total, runs = 0, 0, 40
    for _ in range(runs):
        step = generator.choice([1, -1, 0], 3000, p=[loss_rate, win_rate, 1 - loss_rate - win_rate])
        full = full_verdict(int((step == 1).sum()), int((step == -1).sum()), 3000, 0.02)
        for seen in test.look_points():
            early = test.verdict(seen, int((step[:seen] == 1).sum()), int((step[:seen] == -1).sum()))
            if early is not None:
                break
        differ += early != full
        seen_total += seen
    assert differ <= 3
    if loss_rate - win_rate > 0.05 or loss_rate == win_rate:
        assert seen_total < 0.9 * 3000 * runs


def test_the_last_look_is_after_all_samples() -> None:
    assert SequentialTest(7, 0.1, looks=20).look_points() == [1, 2, 3, 4, 5, 6, 7]
    assert SequentialTest(100, 0.1, looks=3).look_points() == [34, 67, 100]
