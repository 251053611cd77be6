"""Scores of passages for queries, as a reranker gives them, judged by the order in which each query's passages come.

A query counts once, however many passages it has: intervals draw queries. One whose passages are all wanted alike has
no order and does not count.

S samples (a query with a passage), Q queries, N passages of a query, G groups of passages that the model scores alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compress.verification.kinds.scores import TextScores
from compress.verification.metric import F64, Metric, percent
from compress.verification.samples import Compact, Samples, as_array
from targets.errors import InputError

#: Places of an order that count.
PLACES = 10


def _gained(scores_N: F64, gains_N: F64) -> float:
    """The discounted gain of the first places; passages with the same score share their places (Jarvelin and Kekalainen
    2002; McSherry and Najork 2008)."""
    discounts_N = 1 / np.log2(np.arange(len(scores_N)) + 2.0)
    discounts_N[PLACES:] = 0
    _, group_N, counts_G = np.unique(-scores_N, return_inverse=True, return_counts=True)
    starts_G = np.cumsum(counts_G) - counts_G
    gain_G = np.bincount(group_N, gains_N) / counts_G
    return float((gain_G * np.add.reduceat(discounts_N, starts_G)).sum())


def _ndcg(scores_N: F64, gains_N: F64) -> float:
    """The discounted gain as a part of the largest that there is; where a gain is below 0, all are raised."""
    gains_N = gains_N - min(float(gains_N.min()), 0.0)
    return _gained(scores_N, gains_N) / _gained(gains_N, gains_N)


def _order_ndcg(scores_N: F64, wanted_N: F64) -> float:
    """The same where only an order is wanted: its first place gains 10, the next 9, those behind the tenth nothing."""
    before_N = (wanted_N[:, None] < wanted_N).sum(axis=1)
    return _ndcg(scores_N, np.maximum(PLACES - before_N, 0).astype(np.float64))


def _reciprocal_rank(scores_N: F64, wanted_N: F64) -> float:
    """1 over the place of the first of the passages that are wanted most; others with its score come before it."""
    most_N = wanted_N == wanted_N.max()
    return 1 / (1 + int((scores_N[~most_N] >= scores_N[most_N].max()).sum()))


def _each_query(judged: Callable[[F64, F64], float]) -> Callable[[F64], F64]:
    """A row [Q, 1] for each query, of rows [S, 3]: query, score, how much it is wanted."""

    def gather(rows_SK: F64) -> F64:
        rows_SK = rows_SK[np.argsort(rows_SK[:, 0], kind="stable")]
        cuts = np.flatnonzero(np.diff(rows_SK[:, 0])) + 1
        queries = [one for one in np.split(rows_SK, cuts) if len(one) and np.ptp(one[:, 2]) > 0]
        return np.array([judged(one[:, 1], one[:, 2]) for one in queries], np.float64).reshape(-1, 1)

    return gather


def _gold_rows(p: RankedScores) -> F64:
    return np.stack([p.queries.astype(np.float64), p.outputs, p.gold], axis=1)


def _original_rows(reference: RankedScores, candidate: RankedScores) -> F64:
    return np.stack([candidate.queries.astype(np.float64), candidate.outputs, reference.outputs], axis=1)


def _metric(name: str, title: str, judged: Callable[[F64, F64], float], compares: bool) -> Metric:
    return Metric(
        name,
        title,
        "points",
        True,
        _original_rows if compares else _gold_rows,
        percent,
        unseen=lambda rows: 0 * rows,
        dearest=lambda rows: np.asarray(rows[:, 0] == rows[:, 0].max()),
        compares=compares,
        gather=_each_query(judged),
        noun="queries",
    )


@dataclass(frozen=True, eq=False)
class RankedScores(TextScores):
    """Scores of pairs of a query and a passage; `queries` int64 [S]: the number of the query that each pair is of."""

    queries: NDArray[np.int64]

    kind: ClassVar[str] = "ranked scores"
    shared: ClassVar[tuple[str, ...]] = ("gold", "queries")
    metrics: ClassVar[tuple[Metric, ...]] = (
        *TextScores.metrics,
        _metric("ndcg10", "nDCG@10 x 100", _ndcg, compares=False),
        _metric("mrr", "Mean reciprocal rank x 100", _reciprocal_rank, compares=False),
        _metric("order_ndcg10", "nDCG@10 x 100 of the reference's order", _order_ndcg, compares=True),
        _metric("order_mrr", "Mean reciprocal rank x 100 of the reference's first", _reciprocal_rank, compares=True),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "queries", as_array(self.queries, np.int64, 1, "queries"))
        if self.queries.shape != self.gold.shape:
            raise InputError(f"{len(self.queries)} queries but {len(self.gold)} gold scores: give one per pair")

    def plain(self) -> Samples:
        return self

    def compact(self) -> NDArray[Any]:
        return self.outputs.astype("<f8")

    def restored(self, data: Compact) -> RankedScores:
        return RankedScores(np.frombuffer(data, "<f8"), self.gold, self.queries)
