"""Answers that are parts of texts, judged by the words that they share with the true ones.

S samples, K columns.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from compress.verification.changed import ChangedExample, furthest
from compress.verification.metric import F64, Metric, percent
from compress.verification.samples import Compact, Samples, as_array
from targets.errors import InputError

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def plain(answer: str) -> str:
    """An answer without case, punctuation, articles and odd spaces (SQuAD, Rajpurkar et al. 2016, arXiv 1606.05250)."""
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", answer.lower().translate(_PUNCTUATION)).split())


def judged(given: str, true: Sequence[str]) -> tuple[float, float]:
    """Whether an answer is one of the true ones, and the F1 of its words with the nearest of them; "" for none, which
    is right where there is no true one."""
    pairs = [(plain(given), plain(one)) for one in true or [""]]
    return float(any(one == other for one, other in pairs)), max(_f1(one, other) for one, other in pairs)


def _f1(given: str, true: str) -> float:
    words, others = given.split(), true.split()
    if not words or not others:
        return float(words == others)
    return 2 * sum((Counter(words) & Counter(others)).values()) / (len(words) + len(others))


def _f1_rows(p: Spans) -> F64:
    return p.f1[:, None]


def _exact_rows(p: Spans) -> F64:
    return p.exact[:, None]


def _same_rows(reference: Spans, candidate: Spans) -> F64:
    return np.asarray(reference.agree(candidate), np.float64)[:, None]


@dataclass(frozen=True, eq=False)
class Spans(Samples):
    """The part of each text that a model takes for the answer, `spans` int64 [S, 2] (characters, the second exclusive;
    -1 for no answer), its `score` [S] in logits, whether it is the true one, `exact` [S] of 0 and 1, and the `f1` [S]
    of its words, from 0 to 1. `lengths` int64 [S]: characters of the texts.

    Raises InputError if the shapes do not fit together or a span is not in its text.
    """

    spans: NDArray[np.int64]
    score: NDArray[np.float64]
    exact: NDArray[np.float64]
    f1: NDArray[np.float64]
    lengths: NDArray[np.int64]

    kind: ClassVar[str] = "answers in texts"
    shared: ClassVar[tuple[str, ...]] = ("lengths",)
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(
            "answer_f1",
            "F1 of answers",
            "%",
            True,
            _f1_rows,
            percent,
            unseen=lambda rows: 0 * rows,
            dearest=lambda rows: np.asarray(rows[:, 0] == rows[:, 0].max()),
        ),
        Metric("exact_match", "Exact answers", "%", True, _exact_rows, percent, rate=True),
        Metric(
            "answer_agreement",
            "Same answer as the reference",
            "%",
            True,
            _same_rows,
            percent,
            compares=True,
            rate=True,
        ),
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "spans", as_array(self.spans, np.int64, 2, "spans"))
        object.__setattr__(self, "lengths", as_array(self.lengths, np.int64, 1, "lengths"))
        for name in ("score", "exact", "f1"):
            object.__setattr__(self, name, as_array(getattr(self, name), np.float64, 1, name))
        count = len(self.lengths)
        if self.spans.shape != (count, 2) or any(len(one) != count for one in (self.score, self.exact, self.f1)):
            raise InputError("spans, score, exact, f1 and lengths must have one row per question")
        if ((self.spans < -1) | (self.spans > self.lengths[:, None])).any():
            raise InputError("spans must lie within the texts")

    def knows_nothing(self, confidence: float) -> str | None:
        if self.f1.any():
            return None
        return f"no word of its {len(self):,} answers is right: do the data's answers stand in its texts?"

    def agree(self, other: Self) -> NDArray[np.bool_]:
        return np.asarray((self.spans == other.spans).all(axis=1))

    def right(self) -> NDArray[np.bool_]:
        return self.exact > 0

    def most_changed(self, candidate: Self) -> list[ChangedExample]:
        lost = self.f1 - candidate.f1 + 1e-3 * ~self.agree(candidate)
        return [
            ChangedExample(
                index=int(index),
                label="",
                reference=self._told(index),
                candidate=candidate._told(index),
                moved=float(100 * (self.f1[index] - candidate.f1[index])),
                measure="points of F1",
            )
            for index in furthest(lost)
        ]

    def _told(self, index: int) -> str:
        start, end = self.spans[index]
        return "no answer" if start < 0 else f"characters {start} to {end}"

    def compact(self) -> NDArray[Any]:
        return np.stack([self.f1, self.exact], axis=1).astype("<f8")

    def restored(self, data: Compact) -> Spans:
        f1, exact = np.frombuffer(data, "<f8").reshape(len(self), 2).T
        return Spans(self.spans, self.score, exact, f1, self.lengths)
