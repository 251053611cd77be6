"""Embeddings, and the similarities of pairs of them, judged by the rank correlation with people's scores.

S samples, T texts of a sample, D width, K columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from compress.verification.changed import ChangedExample, of_numbers
from compress.verification.metric import F64, Metric, first, neighbours, percent
from compress.verification.samples import Samples, as_array
from compress.verification.statistics import weighted_correlation, weighted_ranks
from targets.errors import InputError

#: Two embeddings are the same answer at more than this cosine.
SAME_DIRECTION = 0.8
#: Samples whose neighbours are looked for at once.
CHUNK = 1024


def cosines(first_SD: NDArray[np.float32], second_SD: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine of the angle between rows, float64; 0 where one of them is zero."""
    first, second = first_SD.astype(np.float64), second_SD.astype(np.float64)
    norms = np.sqrt((first**2).sum(axis=-1) * (second**2).sum(axis=-1))
    return np.asarray((first * second).sum(axis=-1) / np.where(norms > 0, norms, 1.0))


def _unrelated(scores_S: NDArray[np.float64], gold_S: NDArray[np.float64], confidence: float) -> str | None:
    """Why the scores cannot be distinguished from ones that have nothing to do with the gold scores, or None."""
    from scipy.stats import spearmanr

    constant = np.ptp(scores_S) == 0 or np.ptp(gold_S) == 0
    if not constant and spearmanr(scores_S, gold_S, alternative="greater").pvalue < (1 - confidence) / 2:
        return None
    return f"its scores of {len(scores_S):,} pairs do not rise with the gold scores: do tokenizer and data fit?"


def _cosine_rows(reference: Embeddings, candidate: Embeddings) -> F64:
    """The mean over the texts of a sample of the cosine to the reference's embedding."""
    return cosines(reference.vectors, candidate.vectors).mean(axis=1, keepdims=True)


def _pair_rows(p: PairScores | EmbeddedPairs) -> F64:
    return np.stack([p.scores, p.gold], axis=1)


def _spearman(rows_SK: F64) -> float:
    """Rank correlation x 100. All scores equal means no ranking at all: 0."""
    from scipy.stats import rankdata

    ranks = rankdata(rows_SK, axis=0)
    ranks -= ranks.mean(axis=0)
    norm = float(np.sqrt((ranks[:, 0] ** 2).sum() * (ranks[:, 1] ** 2).sum()))
    return 100 * float((ranks[:, 0] * ranks[:, 1]).sum()) / norm if norm > 0 else 0.0


def _weighted_spearman(rows_RK: F64, weights_BR: F64) -> F64:
    ranks = [weighted_ranks(column, weights_BR) for column in rows_RK.T]
    return 100 * weighted_correlation(ranks[0], ranks[1], weights_BR)


def _pair_failed(rows_SK: F64) -> F64:
    """Each pair with the score of another."""
    return np.stack([neighbours(rows_SK)[:, 0], rows_SK[:, 1]], axis=1)


SPEARMAN = Metric(
    "spearman",
    "Spearman x 100",
    "points",
    True,
    _pair_rows,
    of_rows=_spearman,
    of_weights=_weighted_spearman,
    unseen=_pair_failed,
)


@dataclass(frozen=True, eq=False)
class PairScores(Samples):
    """An embedding model's similarity `scores` of S pairs, beside the people's `gold` scores."""

    scores: NDArray[np.float64]
    gold: NDArray[np.float64]

    kind: ClassVar[str] = "pair scores"
    shared: ClassVar[tuple[str, ...]] = ("gold",)
    metrics: ClassVar[tuple[Metric, ...]] = (SPEARMAN,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scores", as_array(self.scores, np.float64, 1, "scores"))
        object.__setattr__(self, "gold", as_array(self.gold, np.float64, 1, "gold"))
        if self.scores.shape != self.gold.shape:
            raise InputError(f"{len(self.scores)} scores but {len(self.gold)} gold scores: give one per pair")

    def knows_nothing(self, confidence: float) -> str | None:
        return _unrelated(self.scores, self.gold, confidence)

    def most_changed(self, candidate: Self) -> list[ChangedExample]:
        return of_numbers(self.scores, candidate.scores, "similarity", lambda k: f"{self.gold[k]:.3g}")

    def compact(self) -> NDArray[Any]:
        return self.scores.astype("<f8")

    def restored(self, data: bytes) -> PairScores:
        return PairScores(np.frombuffer(data, "<f8"), self.gold)


@dataclass(frozen=True, eq=False)
class Embeddings(Samples):
    """An embedding model's answers: `vectors` float32 [S, T, D] of the T texts (1, or 2 for pairs) of each sample."""

    vectors: NDArray[np.float32]

    kind: ClassVar[str] = "embeddings"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(
            "cosine",
            "Cosine to the reference's embedding",
            "",
            True,
            _cosine_rows,
            first,
            compares=True,
            unseen=np.zeros_like,
        ),
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "vectors", as_array(self.vectors, np.float32, 3, "vectors"))

    def agree(self, other: Self) -> NDArray[np.bool_]:
        """On a sample whose (first) embedding points the same way."""
        return cosines(self.vectors[:, 0], other.vectors[:, 0]) > SAME_DIRECTION


def nearest(vectors_SD: NDArray[np.float32]) -> NDArray[np.intp]:
    """For each sample the other one whose vector points most nearly the same way [S]."""
    unit_SD = vectors_SD / np.maximum(np.linalg.norm(vectors_SD, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    found = np.empty(len(unit_SD), np.intp)
    for start in range(0, len(unit_SD), CHUNK):
        cosine_RS = unit_SD[start : start + CHUNK] @ unit_SD.T
        rows = np.arange(len(cosine_RS))
        cosine_RS[rows, start + rows] = -np.inf
        found[start : start + CHUNK] = cosine_RS.argmax(axis=1)
    return found


def _neighbour_rows(p: EmbeddedClasses) -> F64:
    return p.right().astype(np.float64)[:, None]


@dataclass(frozen=True, eq=False)
class EmbeddedClasses(Embeddings):
    """The embedding [S, 1, D] of each sample, beside its class `labels` int64 [S]. Judged by the nearest neighbour: how
    often the nearest other sample is of the same class (Caron et al. 2021, arXiv 2104.14294, with one neighbour)."""

    labels: NDArray[np.int64]

    kind: ClassVar[str] = "embedded classes"
    shared: ClassVar[tuple[str, ...]] = ("labels",)
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("nearest1", "Nearest neighbour of the same class", "%", True, _neighbour_rows, percent, rate=True),
        *Embeddings.metrics,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "labels", as_array(self.labels, np.int64, 1, "labels"))
        if self.vectors.shape[:2] != (len(self.labels), 1):
            shape = list(self.vectors.shape)
            raise InputError(f"vectors of shape {shape} for {len(self.labels)} labels: give [samples, 1, width]")

    def right(self) -> NDArray[np.bool_]:
        return np.asarray(self.labels[nearest(self.vectors[:, 0])] == self.labels)

    def knows_nothing(self, confidence: float) -> str | None:
        from scipy.stats import binomtest

        shares = np.bincount(self.labels) / len(self.labels)
        right, chance = int(self.right().sum()), float((shares**2).sum())
        if binomtest(right, len(self.labels), min(chance, 1.0), "greater").pvalue < (1 - confidence) / 2:
            return None
        return f"the nearest neighbours of {len(self.labels):,} samples are of their class no more often than by chance"


@dataclass(frozen=True, eq=False)
class EmbeddedPairs(Embeddings):
    """The two embeddings [S, 2, D] of each pair of texts, beside the people's `gold` scores."""

    gold: NDArray[np.float64]

    kind: ClassVar[str] = "embedded pairs"
    shared: ClassVar[tuple[str, ...]] = ("gold",)
    metrics: ClassVar[tuple[Metric, ...]] = (SPEARMAN, *Embeddings.metrics)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "gold", as_array(self.gold, np.float64, 1, "gold"))
        if self.vectors.shape[:2] != (len(self.gold), 2):
            shape = list(self.vectors.shape)
            raise InputError(f"vectors of shape {shape} for {len(self.gold)} gold scores: give [pairs, 2, width]")

    def knows_nothing(self, confidence: float) -> str | None:
        return _unrelated(self.scores, self.gold, confidence)

    @property
    def scores(self) -> NDArray[np.float64]:
        """Cosine similarity of each pair, float64 [S]."""
        return cosines(self.vectors[:, 0], self.vectors[:, 1])

    def most_changed(self, candidate: Self) -> list[ChangedExample]:
        return self.plain().most_changed(candidate.plain())

    def plain(self) -> PairScores:
        return PairScores(self.scores, self.gold)
