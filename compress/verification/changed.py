"""The samples on which a candidate's answers moved furthest, whatever kind of answers they are.

S samples.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from compress.verification.metrics import log_softmax, sample_kl
from compress.verification.outcome import Model
from compress.verification.predictions import EmbeddedPairs, PairScores, Predictions, Samples, SequenceLosses

MOST_CHANGED = 20


class ChangedExample(Model):
    """A sample on which the candidate's answer moved far: what each side says (a classifier: its class, with its
    probability), the truth (`label`) where there is one, and by how much it `moved` in the unit of `measure`."""

    index: int
    label: str
    reference: str
    reference_probability: float | None = None
    candidate: str
    candidate_probability: float | None = None
    moved: float
    measure: str


def most_changed(reference: Samples, candidate: Samples) -> list[ChangedExample]:
    """The samples that moved furthest, furthest first; none where nothing moved or the kind has no order."""
    if isinstance(reference, Predictions) and isinstance(candidate, Predictions):
        return _of_classifiers(reference, candidate)
    if isinstance(reference, SequenceLosses) and isinstance(candidate, SequenceLosses):
        was, now = (side.nll / side.tokens for side in (reference, candidate))
        return _of_numbers(was, now, "nats per token", lambda index: "")
    pairs = PairScores | EmbeddedPairs
    if isinstance(reference, pairs) and isinstance(candidate, pairs):
        return _of_numbers(reference.scores, candidate.scores, "similarity", lambda k: f"{reference.gold[k]:.3g}")
    return []


def _furthest(moved_S: NDArray[np.float64]) -> NDArray[np.int64]:
    order = np.argsort(-moved_S, kind="stable")[:MOST_CHANGED]
    return order[moved_S[order] > 0]


def _of_classifiers(reference: Predictions, candidate: Predictions) -> list[ChangedExample]:
    kl, names = sample_kl(reference, candidate), candidate.class_names()
    order = _furthest(kl)
    was, now = np.exp(log_softmax(reference.logits[order])), np.exp(log_softmax(candidate.logits[order]))
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


def _of_numbers(
    was_S: NDArray[np.float64], now_S: NDArray[np.float64], measure: str, label: Callable[[int], str]
) -> list[ChangedExample]:
    moved = np.abs(now_S - was_S)
    return [
        ChangedExample(
            index=int(index),
            label=label(int(index)),
            reference=f"{was_S[index]:.3f}",
            candidate=f"{now_S[index]:.3f}",
            moved=float(moved[index]),
            measure=measure,
        )
        for index in _furthest(moved)
    ]
