"""Numbers that a model gives to texts or images, judged by their rank correlation with people's scores.

S samples, K columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from compress.verification.changed import ChangedExample
from compress.verification.kinds.embeddings import SPEARMAN, PairScores
from compress.verification.metric import F64, Metric, first, neighbours
from compress.verification.samples import Samples, as_array
from targets.errors import InputError

#: Two scores are the same answer within this part of the standard deviation of the reference's.
SAME_SCORE = 0.1


def _difference_rows(reference: TextScores, candidate: TextScores) -> F64:
    """[S, 2]: how far the candidate is from the reference, and how far another sample's score would be."""
    other = neighbours(reference.scores[:, None])[:, 0]
    return np.abs(reference.scores[:, None] - np.stack([candidate.scores, other], axis=1))


def _difference_failed(rows_SK: F64) -> F64:
    """Each text with the score of another."""
    return np.stack([rows_SK.max(axis=1), rows_SK[:, 1]], axis=1)


@dataclass(frozen=True, eq=False)
class TextScores(Samples):
    """What a model's `outputs` [S] are for S texts, pairs of texts or images, beside the people's `gold` scores."""

    outputs: NDArray[np.float64]
    gold: NDArray[np.float64]

    kind: ClassVar[str] = "text scores"
    shared: ClassVar[tuple[str, ...]] = ("gold",)
    metrics: ClassVar[tuple[Metric, ...]] = (
        SPEARMAN,
        Metric(
            "mae",
            "Mean absolute difference from the reference",
            "",
            False,
            _difference_rows,
            first,
            compares=True,
            unseen=_difference_failed,
        ),
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "outputs", as_array(self.outputs, np.float64, 1, "outputs"))
        object.__setattr__(self, "gold", as_array(self.gold, np.float64, 1, "gold"))
        if self.outputs.shape != self.gold.shape:
            raise InputError(f"{len(self.outputs)} outputs but {len(self.gold)} gold scores: give one per text")

    @property
    def scores(self) -> NDArray[np.float64]:
        """The outputs, by the name that rank correlation reads."""
        return self.outputs

    def agree(self, other: Self) -> NDArray[np.bool_]:
        """On a text whose scores differ by less than a tenth of the spread of all."""
        return np.asarray(np.abs(self.scores - other.scores) <= SAME_SCORE * self.scores.std())

    def knows_nothing(self, confidence: float) -> str | None:
        return self.pairs.knows_nothing(confidence)

    def most_changed(self, candidate: Self) -> list[ChangedExample]:
        return self.pairs.most_changed(candidate.pairs)

    @property
    def pairs(self) -> PairScores:
        """The same without what they are scores of."""
        return PairScores(self.outputs, self.gold)

    def plain(self) -> Samples:
        return self.pairs
