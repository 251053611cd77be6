"""The samples on which a candidate's answers moved furthest, whatever kind of answers they are.

S samples.
"""

from __future__ import annotations

from collections.abc import Callable

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


def of_numbers(
    was_S: NDArray[np.float64], now_S: NDArray[np.float64], measure: str, label: Callable[[int], str]
) -> list[ChangedExample]:
    """The most changed of answers that are numbers [S]; `label` gives the truth of a sample, "" where there is none."""
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
        for index in furthest(moved)
    ]
