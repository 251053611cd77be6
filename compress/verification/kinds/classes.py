"""Classes: a label per sample, judged by accuracy.

S samples, C classes, K columns, B bootstrap resamples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from compress.verification.changed import ChangedExample, furthest
from compress.verification.metric import F64, Metric, first, kl_failed, log_softmax, neighbours, percent
from compress.verification.samples import Samples, as_array
from compress.verification.statistics import rate_interval
from targets.errors import InputError


def correct(p: Predictions) -> NDArray[np.bool_]:
    """Bool [S]: is the largest logit the label's?"""
    return np.asarray(p.logits.argmax(axis=1) == p.labels)


def sample_kl(reference: Predictions, candidate: Predictions) -> F64:
    """KL(reference || candidate) in nats, per sample [S]."""
    log_p, log_q = log_softmax(reference.logits), log_softmax(candidate.logits)
    return np.asarray(np.maximum((np.exp(log_p) * (log_p - log_q)).sum(axis=1), 0.0))


def _correct_rows(p: Predictions) -> F64:
    return correct(p).astype(np.float64)[:, None]


def _agreement_rows(reference: Predictions, candidate: Predictions) -> F64:
    same = reference.logits.argmax(axis=1) == candidate.logits.argmax(axis=1)
    return np.asarray(same, dtype=np.float64)[:, None]


def _kl_rows(reference: Predictions, candidate: Predictions) -> F64:
    return sample_kl(reference, candidate)[:, None]


def _logit_error_rows(reference: Predictions, candidate: Predictions) -> F64:
    difference = reference.logits.astype(np.float64) - candidate.logits.astype(np.float64)
    return np.asarray(np.abs(difference).max(axis=1))[:, None]


def _f1_rows(p: Predictions) -> F64:
    """[S, 3 C]: hit, predicted, actual, one-hot by class."""
    one_hot = np.eye(p.logits.shape[1])
    predicted, actual = one_hot[p.logits.argmax(axis=1)], one_hot[p.labels]
    return np.concatenate([predicted * actual, predicted, actual], axis=1)


def _f1_failed(rows_SK: F64) -> F64:
    """Each sample called as another one was, or the next class where that would be right."""
    _, predicted, actual = np.split(rows_SK, 3, axis=1)
    other = neighbours(predicted)
    right = (other * actual).sum(axis=1) > 0
    other[right] = np.roll(other[right], 1, axis=1)
    return np.concatenate([np.zeros_like(other), other, actual], axis=1)


def of_the_rarest_class(rows_SK: F64) -> NDArray[np.bool_]:
    """Right answers of the class with the fewest samples among those that have any: each is worth most to macro F1.
    All samples where none is right."""
    hit, _, actual = np.split(rows_SK, 3, axis=1)
    hits, sizes = hit.sum(axis=0), actual.sum(axis=0)
    if not hits.any():
        return np.ones(len(rows_SK), np.bool_)
    rarest = int(np.where(hits > 0, sizes, np.inf).argmin())
    return np.asarray(hit[:, rarest] > 0)


def macro_f1(means_BK: F64) -> F64:
    """Mean F1 in percent over the classes that occur as a label or a prediction."""
    hit, predicted, actual = np.split(means_BK, 3, axis=-1)
    total = predicted + actual
    occurs = total > 0
    f1 = np.where(occurs, 2 * hit / np.where(occurs, total, 1.0), 0.0)
    return np.asarray(100 * f1.sum(axis=-1) / np.maximum(occurs.sum(axis=-1), 1))


@dataclass(frozen=True, eq=False)
class Predictions(Samples):
    """A classifier's answers: `logits` float32 [S, C], true `labels` int64 [S], the C class `names` if known.

    Raises InputError if the shapes do not fit together or a label is not a class.
    """

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    names: list[str] | None = None

    kind: ClassVar[str] = "class logits"
    shared: ClassVar[tuple[str, ...]] = ("labels",)
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("top1", "Top-1 accuracy", "%", True, _correct_rows, percent, rate=True),
        Metric("f1_macro", "Macro F1", "%", True, _f1_rows, macro_f1, unseen=_f1_failed, dearest=of_the_rarest_class),
        Metric(
            "agreement",
            "Same prediction as the reference",
            "%",
            True,
            _agreement_rows,
            percent,
            compares=True,
            rate=True,
        ),
        Metric("kl", "Mean KL from the reference", "nats", False, _kl_rows, first, compares=True, unseen=kl_failed),
        Metric(
            "max_logit_error",
            "Largest logit error",
            "",
            False,
            _logit_error_rows,
            of_rows=lambda rows: float(rows.max()),
            compares=True,
            sampled=False,
        ),
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "logits", as_array(self.logits, np.float32, 2, "logits"))
        object.__setattr__(self, "labels", as_array(self.labels, np.int64, 1, "labels"))
        samples, classes = self.logits.shape
        if len(self.labels) != samples:
            raise InputError(f"{samples} rows of logits but {len(self.labels)} labels: give one per sample")
        if samples and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < classes:
            reach = f"from {self.labels.min()} to {self.labels.max()}"
            raise InputError(f"labels reach {reach}, but there are {classes} classes")
        if self.names is not None and len(self.names) != classes:
            raise InputError(f"{len(self.names)} class names for {classes} classes: give one name per class")

    def knows_nothing(self, confidence: float) -> str | None:
        classes, samples = self.logits.shape[1], len(self)
        answers = self.logits.argmax(axis=1)
        chance = float(np.bincount(answers, minlength=classes) @ np.bincount(self.labels, minlength=classes))
        hits, expected = int((answers == self.labels).sum()), chance / samples**2
        if rate_interval(hits, samples, confidence).low > expected:
            return None
        return (
            f"right in {100 * hits / samples:.1f} % of {samples:,} samples, where answers without regard to the input "
            f"would be in {100 * expected:.1f} %: do its labels, the data's class names and its preprocessing fit?"
        )

    def class_names(self) -> list[str]:
        """Names of the C classes; their numbers where no names are known."""
        return list(self.names) if self.names is not None else [str(k) for k in range(self.logits.shape[1])]

    def agree(self, other: Self) -> NDArray[np.bool_]:
        return np.asarray(self.logits.argmax(axis=1) == other.logits.argmax(axis=1))

    def most_changed(self, candidate: Self) -> list[ChangedExample]:
        kl, names = sample_kl(self, candidate), candidate.class_names()
        order = furthest(kl)
        was, now = np.exp(log_softmax(self.logits[order])), np.exp(log_softmax(candidate.logits[order]))
        return [
            ChangedExample(
                index=int(index),
                label=names[candidate.labels[index]],
                reference=names[before.argmax()],
                reference_probability=float(before.max()),
                candidate=names[after.argmax()],
                candidate_probability=float(after.max()),
                moved=float(kl[index]),
                measure="KL, nats",
            )
            for index, before, after in zip(order, was, now, strict=True)
        ]

    def right(self) -> NDArray[np.bool_]:
        return correct(self)

    def groups(self) -> list[tuple[str, NDArray[np.bool_]]]:
        return [(name, self.labels == k) for k, name in enumerate(self.class_names())]

    def confusion(self) -> NDArray[np.int64]:
        classes = self.logits.shape[1]
        pairs = self.labels * classes + self.logits.argmax(axis=1)
        return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)

    def compact(self) -> NDArray[Any]:
        return self.logits.argmax(axis=1).astype("<u2")

    def restored(self, data: bytes) -> Predictions:
        """Logits are 1 for the kept answer and 0 elsewhere, which keeps every drop."""
        chosen = np.frombuffer(data, "<u2").astype(np.int64)
        if len(chosen) != len(self) or chosen.max(initial=0) >= self.logits.shape[1]:
            raise ValueError(f"{len(chosen)} answers")
        return Predictions(np.eye(self.logits.shape[1], dtype=np.float32)[chosen], self.labels)
