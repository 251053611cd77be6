"""A reference that knows nothing has nothing to lose: no drop from it is a pass."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.verification.gate import default_gate, parse
from compress.verification.outcome import Status
from compress.verification.predictions import PairScores, Predictions, Samples, SequenceLosses

ROWS = np.arange(2000)


def classifier(right: float, samples: int = 2000, seed: int = 0) -> Predictions:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 10, samples)
    answers = np.where(generator.random(samples) < right, labels, generator.integers(0, 10, samples))
    return Predictions(np.eye(10)[answers], labels)


@pytest.mark.parametrize(
    ("metric", "samples", "reason"),
    [
        ("top1", classifier(0.0), "would be in 10"),
        ("top1", Predictions(np.eye(10)[ROWS * 0], ROWS % 10), "would be in 10"),
        ("spearman", PairScores(np.random.default_rng(0).random(2000), ROWS % 7), "rise with the gold"),
        ("spearman", PairScores(np.ones(2000), ROWS % 7), "rise with the gold"),
        ("perplexity", SequenceLosses(ROWS * 0 + 700.0, ROWS * 0 + 60, ROWS * 0 + 100), "guessing bytes"),
    ],
)
def test_a_reference_at_chance_is_an_error(metric: str, samples: Samples, reason: str) -> None:
    result = default_gate(metric, 5.0).judge(samples, samples)
    assert result.status is Status.ERROR and "reference: " in result.message and reason in result.message


def test_bounds_on_anything_but_a_drop_do_not_ask_what_the_reference_knows() -> None:
    samples = classifier(0.0)
    assert parse({"check": [{"metric": "max_logit_error", "max_value": 1e-4}]}).judge(samples, samples)


def test_rare_classes_do_not_make_a_good_reference_suspect() -> None:
    labels = (np.arange(2000) % 40 == 0).astype(int)
    answers = labels.copy()
    answers[:400:40] = 0
    samples = Predictions(np.eye(2)[answers], labels)
    assert samples.knows_nothing(0.95) is None
    assert Predictions(np.eye(2)[labels * 0], labels).knows_nothing(0.95) is not None, "always the frequent class"


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_a_reference_that_is_often_right_is_never_suspect(seed: int) -> None:
    assert classifier(0.5, 200, seed).knows_nothing(0.95) is None
