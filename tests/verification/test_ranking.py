"""The order of each query's passages, against scikit-learn, loops and a plain bootstrap over queries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score

from compress.verification import baseline, files
from compress.verification.drift import compare
from compress.verification.estimate import Sampling, estimate_drop, estimate_value
from compress.verification.gate import default_gate, parse
from compress.verification.kinds.ranking import RankedScores
from compress.verification.kinds.scores import TextScores
from compress.verification.metrics import METRICS
from compress.verification.outcome import Status
from targets.errors import InputError

NAMES = ("ndcg10", "mrr", "order_ndcg10", "order_mrr")


def ranked(queries: int, noise: float = 0.3, seed: int = 0, ties: bool = False) -> RankedScores:
    """Five to thirty passages a query in mixed order, wanted 0 to 3, and scores that know of it."""
    draw = np.random.default_rng(0)
    query_S = draw.permutation(np.repeat(np.arange(queries), draw.integers(5, 31, queries)))
    gold_S = draw.integers(0, 4, len(query_S)).astype(float)
    scores_S = gold_S + noise * np.random.default_rng(seed).normal(size=len(gold_S))
    return RankedScores(np.round(scores_S) if ties else scores_S, gold_S, query_S)


def each(one: RankedScores) -> list[tuple[np.ndarray, np.ndarray]]:
    masks = [one.queries == query for query in np.unique(one.queries)]
    return [(one.outputs[mask], one.gold[mask]) for mask in masks if np.ptp(one.gold[mask]) > 0]


@pytest.mark.parametrize("ties", [False, True])
def test_ndcg_is_that_of_scikit_learn_with_ties_too(ties: bool) -> None:
    one = ranked(40, noise=1.5, ties=ties)
    wanted = np.mean([ndcg_score([gold], [scores], k=10) for scores, gold in each(one)])
    assert METRICS["ndcg10"].value(one) == pytest.approx(100 * wanted, abs=1e-9)


def test_the_order_of_the_reference_is_wanted_by_places() -> None:
    one, other = ranked(30), ranked(30, noise=1.5, seed=1)
    wanted = []
    for query in np.unique(one.queries):
        mask = one.queries == query
        places = (-one.outputs[mask]).argsort().argsort()
        wanted.append(ndcg_score([np.maximum(10 - places, 0)], [other.outputs[mask]], k=10))
    assert METRICS["order_ndcg10"].value(one, other) == pytest.approx(100 * np.mean(wanted), abs=1e-9)
    assert METRICS["order_ndcg10"].value(one, one) == METRICS["order_mrr"].value(one, one) == pytest.approx(100)


def test_the_reciprocal_rank_is_that_of_scikit_learn_where_one_passage_is_wanted() -> None:
    one = ranked(30, noise=1.5)
    first_S = np.zeros(len(one))
    first_S[np.unique(one.queries, return_index=True)[1]] = 1
    single = RankedScores(one.outputs, first_S, one.queries)
    wanted = np.mean([label_ranking_average_precision_score([gold], [scores]) for scores, gold in each(single)])
    assert METRICS["mrr"].value(single) == pytest.approx(100 * wanted, abs=1e-9)


def test_the_reciprocal_rank_counts_to_the_first_of_several_and_ties_against_the_model() -> None:
    one = RankedScores(np.array([3.0, 2, 1, 5, 5, 1]), np.array([0.0, 1, 1, 0, 2, 0]), np.array([7, 7, 7, 9, 9, 9]))
    assert METRICS["mrr"].value(one) == 50.0


def test_gains_below_zero_are_raised_and_queries_without_an_order_do_not_count() -> None:
    scores, gold = np.array([0.1, 0.9, 0.4, 1.0, 2.0]), np.array([-2.0, 0.0, -1.0, 1.0, 1.0])
    one = RankedScores(scores, gold, np.array([0, 0, 0, 1, 1]))
    assert METRICS["ndcg10"].value(one) == pytest.approx(100)
    with pytest.raises(InputError, match="there are no queries"):
        METRICS["ndcg10"].value(RankedScores(scores, np.ones(5), np.arange(5)))


@pytest.mark.parametrize("name", NAMES)
def test_the_interval_holds_that_of_a_bootstrap_over_queries_and_what_one_unseen_query_may_cost(name: str) -> None:
    metric, one, other = METRICS[name], ranked(300, noise=0.5), ranked(300, noise=1.0, seed=1)
    draw, sampling = np.random.default_rng(1), Sampling(resamples=1000)
    if metric.compares:
        rows = metric.rows(one, other)
        interval, values = estimate_value(metric, rows, sampling).interval, metric.gathered(rows)[:, 0]
    else:
        sides = metric.rows(one), metric.rows(other)
        interval = estimate_drop(metric, *sides, sampling).interval
        values = metric.gathered(sides[0])[:, 0] - metric.gathered(sides[1])[:, 0]
    means = 100 * draw.choice(values, (4000, len(values))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    one_query = 100 / len(values)
    assert interval is not None
    assert low - 4 * one_query < interval.low < low and high < interval.high < high + 4 * one_query


def test_a_query_counts_once_however_many_passages_it_has() -> None:
    one = ranked(30)
    gate = parse({"min_samples": 50, "check": [{"metric": "ndcg10", "max_drop": 5.0}]})
    result = gate.judge(one, one)
    assert len(one) > 400 and result.status is Status.ERROR
    assert "30 queries are too few to judge: min_samples is 50" in result.message


def test_a_gate_by_name_passes_a_small_change_and_fails_a_shuffled_order() -> None:
    one, draw = ranked(200), np.random.default_rng(1)
    near = RankedScores(one.outputs + draw.normal(0, 0.01, len(one)), one.gold, one.queries)
    shuffled = RankedScores(np.random.default_rng(2).permutation(one.outputs), one.gold, one.queries)
    checks = [{"metric": name, "max_drop": 5.0} for name in NAMES[:2]]
    checks += [{"metric": name, "min_value": 90.0} for name in NAMES[2:]]
    gate = parse({"check": checks})
    assert gate.judge(one, near)
    assert [check.status for check in gate.judge(one, shuffled).checks] == [Status.FAIL] * 4
    assert {check.samples for check in gate.judge(one, near).checks} == {200}


def test_scores_without_queries_say_what_the_metric_needs() -> None:
    one = TextScores(np.arange(90.0), np.arange(90.0))
    result = default_gate("mrr", 1.0).judge(one, one)
    assert result.status is Status.ERROR and "needs ranked scores, the sides hold text scores" in result.message


def test_drift_tells_all_of_it_and_leaves_out_what_no_query_gives() -> None:
    one = ranked(60)
    assert [metric.name for metric in compare(one, one, default_gate("spearman", 5.0)).metrics] == [
        "spearman",
        "mae",
        *NAMES,
    ]
    level = RankedScores(one.outputs, one.queries.astype(float), one.queries)
    names = [metric.name for metric in compare(level, level, default_gate("spearman", 5.0)).metrics]
    assert names == ["spearman", "mae", *NAMES[2:]]


def test_files_and_the_last_accepted_run_keep_the_queries(tmp_path: Path) -> None:
    one, worse = ranked(200), ranked(200, noise=3.0, seed=1)
    one.save(tmp_path / "one.npz")
    again = files.load(tmp_path / "one.npz")
    assert isinstance(again, RankedScores) and np.array_equal(again.queries, one.queries)
    gate = default_gate("ndcg10", 3.0)
    baseline.update(tmp_path / "results.json", one, compare(one, one, gate))
    kept = baseline.load(tmp_path / "results.json")
    assert baseline.check(kept, one, gate).status is Status.PASS
    assert baseline.check(kept, worse, gate).status is Status.FAIL
