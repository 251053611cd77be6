"""Metrics against independent oracles: scikit-learn, scipy, and plain loops."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from compress.verification.metrics import METRICS, by_name
from compress.verification.predictions import PairScores, Predictions, SequenceLosses
from targets.errors import InputError


def random_pair(seed: int, samples: int = 60, classes: int = 5) -> tuple[Predictions, Predictions]:
    generator = np.random.default_rng(seed)
    logits = 2 * generator.normal(size=(samples, classes))
    labels = generator.integers(0, classes, samples)
    moved = logits + generator.normal(size=logits.shape)
    return Predictions(logits, labels), Predictions(moved, labels)


seeds = st.integers(0, 10_000)


@given(seeds)
def test_classification_metrics_agree_with_scikit_learn(seed: int) -> None:
    p, _ = random_pair(seed)
    predicted = p.logits.argmax(axis=1)
    assert METRICS["top1"].value(p) == pytest.approx(100 * sklearn.metrics.accuracy_score(p.labels, predicted))
    f1 = sklearn.metrics.f1_score(p.labels, predicted, average="macro", zero_division=0)
    assert METRICS["f1_macro"].value(p) == pytest.approx(100 * f1)


@given(seeds)
def test_pair_metrics_agree_with_plain_loops(seed: int) -> None:
    reference, candidate = random_pair(seed)
    kl = 0.0
    for a, b in zip(reference.logits, candidate.logits, strict=True):
        kl += float(
            scipy.special.rel_entr(scipy.special.softmax(a.astype(float)), scipy.special.softmax(b.astype(float))).sum()
        )
    assert METRICS["kl"].value(reference, candidate) == pytest.approx(kl / len(reference), rel=1e-9)
    same = sum(int(a.argmax() == b.argmax()) for a, b in zip(reference.logits, candidate.logits, strict=True))
    assert METRICS["agreement"].value(reference, candidate) == pytest.approx(100 * same / len(reference))
    worst = max(abs(float(a) - float(b)) for a, b in zip(reference.logits.flat, candidate.logits.flat, strict=True))
    assert METRICS["max_logit_error"].value(reference, candidate) == pytest.approx(worst)


@given(seeds, st.booleans())
def test_spearman_agrees_with_scipy_also_with_ties(seed: int, ties: bool) -> None:
    generator = np.random.default_rng(seed)
    gold = generator.integers(0, 6, 40).astype(float)
    scores = gold + generator.normal(size=40) * 2
    scores = np.round(scores) if ties else scores
    expected = 100 * float(scipy.stats.spearmanr(scores, gold).statistic)
    assert METRICS["spearman"].value(PairScores(scores, gold)) == pytest.approx(expected)


def test_a_model_that_scores_all_pairs_alike_has_no_rank_correlation() -> None:
    assert METRICS["spearman"].value(PairScores(np.ones(5), np.arange(5.0))) == 0.0


def test_language_metrics_follow_their_definitions() -> None:
    losses = SequenceLosses(np.array([6.0, 4.0]), np.array([3, 2]), np.array([12, 8]))
    assert METRICS["perplexity"].value(losses) == pytest.approx(math.exp(10 / 5))
    assert METRICS["bits_per_byte"].value(losses) == pytest.approx(10 / math.log(2) / 20)


@given(seeds)
def test_permuting_the_samples_changes_no_metric_by_a_single_bit(seed: int) -> None:
    reference, candidate = random_pair(seed)
    order = np.random.default_rng(seed + 1).permutation(len(reference))
    for metric in reference.metrics:
        sides = (reference, candidate) if metric.compares else (candidate,)
        assert metric.value(*sides) == metric.value(*(side.take(order) for side in sides))


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", [metric.name for metric in METRICS.values() if metric in Predictions.metrics])
def test_a_value_that_is_not_finite_is_an_error_and_not_a_number(name: str, poison: float) -> None:
    reference, candidate = random_pair(0)
    candidate.logits[7, 2] = poison
    with pytest.raises(InputError, match=r"not finite.*sample 7"):
        METRICS[name].value(*((reference, candidate) if METRICS[name].compares else (candidate,)))


def test_a_metric_of_no_samples_is_an_error() -> None:
    with pytest.raises(InputError, match="no samples"):
        METRICS["top1"].value(Predictions(np.zeros((0, 3), np.float32), np.zeros(0, np.int64)))


def test_the_drop_is_positive_when_the_candidate_is_worse_whichever_way_the_metric_runs() -> None:
    assert METRICS["top1"].drop(90.0, 88.0) == 2.0
    assert METRICS["perplexity"].drop(20.0, 23.0) == 3.0


def test_kinds_share_a_metric_but_two_metrics_share_no_name() -> None:
    one = METRICS["exact_match"]
    assert by_name([one, one]) == {"exact_match": one}
    with pytest.raises(ValueError, match="two metrics have the name 'exact_match'"):
        by_name([one, replace(METRICS["text_agreement"], name="exact_match")])


def test_extreme_logits_do_not_overflow() -> None:
    p = Predictions(np.array([[1e30, -1e30], [0.0, 1e4]], np.float32), np.array([0, 1]))
    assert METRICS["kl"].value(p, p) == 0.0
