"""The samples on which a candidate's answers moved furthest, whatever kind of answers they are.

S samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.verification.outcome import Model

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


def furthest(moved_S: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices of the samples that moved furthest, furthest first; those that did not move are left out."""
    order = np.argsort(-moved_S, kind="stable")[:MOST_CHANGED]
    return order[moved_S[order] > 0]


def examples(
    moved_S: NDArray[Any],
    measure: str,
    reference: Callable[[int], str],
    candidate: Callable[[int], str],
    label: Callable[[int], str] = lambda index: "",
) -> list[ChangedExample]:
    """The samples that moved furthest; the callables give what each side says of a sample, and the truth."""
    return [
        ChangedExample(
            index=index,
            label=label(index),
            reference=reference(index),
            candidate=candidate(index),
            moved=float(moved_S[index]),
            measure=measure,
        )
        for index in map(int, furthest(moved_S))
    ]


def of_numbers(
    was_S: NDArray[np.float64], now_S: NDArray[np.float64], measure: str, label: Callable[[int], str]
) -> list[ChangedExample]:
    """The most changed of answers that are numbers [S]; `label` gives the truth of a sample, "" where there is none."""
    moved_S = np.abs(now_S - was_S)
    return examples(moved_S, measure, lambda index: f"{was_S[index]:.3f}", lambda index: f"{now_S[index]:.3f}", label)
