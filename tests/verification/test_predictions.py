"""Predictions: what they refuse, and that a file gives them back."""

from pathlib import Path

import numpy as np
import pytest

from compress.verification import files
from compress.verification.gate import default_gate
from compress.verification.kinds import kinds
from compress.verification.metrics import METRICS, needs
from compress.verification.outcome import Status
from compress.verification.predictions import PairScores, Predictions, Samples, SequenceLosses
from targets.errors import InputError


def small() -> Predictions:
    return Predictions(np.array([[1.0, 2.0], [3.0, 0.0]], np.float32), np.array([1, 0]), ["cat", "dög"])


@pytest.mark.parametrize(
    "samples",
    [
        small(),
        Predictions(np.zeros((3, 4), np.float32), np.arange(3)),
        SequenceLosses(np.array([1.5, 2.5]), np.array([3, 4]), np.array([9, 8])),
        PairScores(np.array([0.1, 0.9]), np.array([1.0, 5.0])),
    ],
)
def test_a_saved_file_gives_the_same_samples_back(samples: Samples, tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    samples.save(path)
    again = files.load(path)
    assert type(again) is type(samples)
    assert samples.mismatch(again) is None
    for name, value in samples.arrays().items():
        np.testing.assert_array_equal(value, again.arrays()[name])
    assert getattr(again, "names", None) == getattr(samples, "names", None)


def test_the_same_samples_are_saved_as_the_same_bytes(tmp_path: Path) -> None:
    small().save(tmp_path / "a.npz")
    small().save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_plain_npz_of_logits_and_labels_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", logits=np.eye(2), labels=[0, 1])
    loaded = files.load(tmp_path / "p.npz")
    assert isinstance(loaded, Predictions)
    assert loaded.logits.dtype == np.float32 and loaded.labels.dtype == np.int64


@pytest.mark.parametrize(
    ("logits", "labels", "names", "message"),
    [
        (np.zeros(3), [0, 1, 2], None, "2 dimension"),
        (np.zeros((3, 2)), [0, 1], None, "3 rows of logits but 2 labels"),
        (np.zeros((2, 2)), [0, 2], None, "there are 2 classes"),
        (np.zeros((2, 2)), [0, -1], None, "from -1"),
        (np.zeros((2, 2)), [0.5, 1.0], None, "whole numbers"),
        (np.zeros((2, 2)), ["a", "b"], None, "must be numbers"),
        (np.zeros((2, 2), complex), [0, 1], None, "logits must be numbers, got complex128"),
        (np.zeros((2, 2), "m8[s]"), [0, 1], None, "logits must be numbers, got timedelta64"),
        (np.array([["1", "2"]] * 2), [0, 1], None, "logits must be numbers, got <U1"),
        (np.zeros((2, 2)), np.array([0, 2**64 - 1], np.uint64), None, "labels hold numbers that are too large"),
        (np.zeros((2, 2)), [0, 1], ["one"], "1 class names for 2 classes"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(logits: object, labels: object, names: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Predictions(logits, labels, names)  # type: ignore[arg-type]


def test_a_file_that_is_no_predictions_is_refused_with_its_name(tmp_path: Path) -> None:
    broken, other, pickled = tmp_path / "broken.npz", tmp_path / "other.npz", tmp_path / "pickled.npz"
    broken.write_bytes(b"PK\x03\x04 not a zip")
    np.savez(other, weights=np.zeros(2))
    np.savez(pickled, logits=np.array([[object()]]), labels=np.array([0]))
    texts, named = tmp_path / "texts.npz", tmp_path / "named.npz"
    np.savez(texts, logits=np.array([["1", "2"]]), labels=np.array([0]))
    np.savez(named, logits=np.zeros((1, 2)), labels=np.array([0]), names="cat")
    for path in (broken, other, pickled, texts, named, tmp_path / "absent.npz"):
        with pytest.raises(InputError, match=path.name):
            files.load(path)


def test_two_sides_with_other_labels_or_class_names_do_not_match() -> None:
    ours = small()
    assert "did not see the same data" in (ours.mismatch(Predictions(ours.logits, 1 - ours.labels)) or "")
    assert "'cat' in the reference" in (ours.mismatch(Predictions(ours.logits, ours.labels, ["dög", "cat"])) or "")
    assert "shape" in (ours.mismatch(ours.take(np.array([0]))) or "")
    assert ours.mismatch(PairScores(np.zeros(2), np.zeros(2))) is not None


@pytest.mark.parametrize("loss", [0.0, -0.0, -1.0])
def test_losses_of_nothing_or_below_are_a_fault_and_no_gate_passes_them(loss: float) -> None:
    counts = np.full(100, 20)
    good = SequenceLosses(np.full(100, 30.0), counts, counts)
    masked = SequenceLosses(np.where(np.arange(100) == 7, loss, 30.0), counts, counts)
    assert good.fault() is None
    assert "0 or below in 1 of 100 samples, first in sample 7" in str(masked.fault())
    assert default_gate("perplexity", 1.0).judge(good, good)
    assert default_gate("perplexity", 1.0).judge(good, masked).status is Status.ERROR


def test_every_kind_of_answers_is_found_by_its_file_and_has_metrics() -> None:
    assert len(kinds()) >= 7
    assert len({kind.kind for kind in kinds()}) == len(kinds())
    for kind in kinds():
        assert kind.metrics and needs(kind.metrics[0])
        assert all(one.rate or not one.sampled or one.unseen is not None for one in kind.metrics), kind
    assert list(METRICS) == list(dict.fromkeys(metric.name for kind in kinds() for metric in kind.metrics))
