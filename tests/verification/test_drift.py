"""Drift: all the numbers, where the changes are, and a JSON round trip."""

import numpy as np
import pytest
import sklearn.metrics
from pydantic import ValidationError

from compress.verification.drift import Drift, compare
from compress.verification.gate import default_gate
from compress.verification.metrics import METRICS
from compress.verification.outcome import Status
from compress.verification.predictions import PairScores, Predictions, SequenceLosses

GATE = default_gate("top1", 5.0)
NAMES = ["cat", "dog", "owl"]


def noisy_pair(samples: int = 600) -> tuple[Predictions, Predictions]:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, samples)
    logits = generator.normal(size=(samples, 3)) + 2 * np.eye(3)[labels]
    moved = logits + 0.3 * generator.normal(size=logits.shape)
    return Predictions(logits, labels, NAMES), Predictions(moved, labels, NAMES)


def test_every_metric_of_the_kind_is_reported_as_its_plain_function_computes_it() -> None:
    reference, candidate = noisy_pair()
    drift = compare(reference, candidate, GATE)
    assert [m.name for m in drift.metrics] == ["top1", "f1_macro", "agreement", "kl", "max_logit_error"]
    top1, kl = drift.metric("top1"), drift.metric("kl")
    assert top1 is not None and top1.drop is not None and kl is not None
    assert top1.reference == METRICS["top1"].value(reference) and top1.candidate == METRICS["top1"].value(candidate)
    assert top1.drop == pytest.approx(METRICS["top1"].value(reference) - METRICS["top1"].value(candidate))
    assert kl.value == METRICS["kl"].value(reference, candidate) and kl.drop is None
    for metric in drift.metrics:
        point = metric.value if metric.drop is None else metric.drop
        if metric.low is not None and metric.high is not None:
            assert metric.low <= point <= metric.high


def test_per_class_numbers_add_up_to_the_overall_counts() -> None:
    reference, candidate = noisy_pair()
    drift = compare(reference, candidate, GATE)
    assert [row.name for row in drift.classes] == NAMES
    assert sum(row.samples for row in drift.classes) == len(reference)
    lost = sum(row.samples * (row.drop or 0) / 100 for row in drift.classes)
    assert drift.losses is not None and drift.wins is not None
    assert lost == pytest.approx(drift.losses - drift.wins)
    recall = sklearn.metrics.recall_score(candidate.labels, candidate.logits.argmax(axis=1), average=None)
    assert [row.candidate for row in drift.classes] == pytest.approx(list(100 * recall))


def test_the_planted_changes_are_found() -> None:
    labels = np.arange(300) % 3
    logits = 10 * np.eye(3)[labels]
    moved = logits.copy()
    cats = np.flatnonzero(labels == 0)[:5]
    moved[cats] = [0.0, 10.0, 0.0]
    moved[7] = [9.0, 10.0, 0.0]
    drift = compare(Predictions(logits, labels, NAMES), Predictions(moved, labels, NAMES), GATE)
    assert [(c.label, c.predicted, c.reference, c.candidate) for c in drift.confusion] == [("cat", "dog", 0, 5)]
    assert [change.index for change in drift.changed] == [*cats, 7]
    first = drift.changed[0]
    assert (first.label, first.reference, first.candidate) == ("cat", "cat", "dog")
    assert first.reference_probability and first.reference_probability > 0.99


def test_it_is_deterministic_and_survives_json() -> None:
    sides = noisy_pair()
    slices = {"first half": np.arange(600) < 300, "none": np.zeros(600, bool)}
    drift = compare(*sides, GATE, slices)
    assert drift.to_json() == compare(*sides, GATE, slices).to_json()
    again = Drift.from_json(drift.to_json())
    assert again == drift and bool(again) == bool(drift)
    assert drift.slices[1].drop is None
    with pytest.raises(ValidationError):
        Drift.from_json('{"samples": 3}')


def test_equal_sides_are_called_identical_and_show_no_change() -> None:
    reference, candidate = noisy_pair()
    drift = compare(reference, reference, GATE)
    assert drift.identical and not drift.changed and not drift.confusion
    assert not compare(reference, candidate, GATE).identical


def test_sides_that_cannot_be_compared_give_a_drift_without_numbers_that_is_no_pass() -> None:
    reference, candidate = noisy_pair()
    candidate.logits[3, 1] = np.nan
    drift = compare(reference, candidate, GATE)
    assert not drift and drift.status is Status.ERROR and not drift.metrics
    assert Drift.from_json(drift.to_json()) == drift


def test_swapped_class_names_are_an_error() -> None:
    reference, candidate = noisy_pair()
    swapped = Predictions(candidate.logits, candidate.labels, ["dog", "cat", "owl"])
    drift = compare(reference, swapped, GATE)
    assert drift.status is Status.ERROR and "'cat' in the reference" in drift.gate.message


def test_embeddings_and_language_models_have_their_own_metrics() -> None:
    gold = np.arange(80.0)
    pairs = PairScores(gold**2, gold)
    assert [m.name for m in compare(pairs, pairs, default_gate("spearman", 1.0)).metrics] == ["spearman"]
    tokens = np.full(80, 10)
    losses = SequenceLosses(20.0 + np.arange(80) / 80, tokens, 4 * tokens)
    drift = compare(losses, losses, default_gate("perplexity", 1.0))
    assert [m.name for m in drift.metrics] == ["perplexity", "bits_per_byte"] and drift
