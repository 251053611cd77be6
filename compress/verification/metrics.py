"""The metrics, in one table. Adding a metric means adding one row to it (and its row function above).

A metric is a function of per-sample rows [S, K]: either a smooth function of the rows' means (`of_means`,
which makes its bootstrap one matrix product) or any function of the rows themselves (`of_rows`).
Rates are in percent, so a drop is in points.

S samples, C classes, K columns, B bootstrap resamples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.verification.predictions import (
    EmbeddedPairs,
    Embeddings,
    NextTokens,
    PairScores,
    Predictions,
    Samples,
    SequenceLosses,
    TextOutputs,
    cosines,
)
from targets.errors import InputError

F64 = NDArray[np.float64]


def _first(means_BK: F64) -> F64:
    return means_BK[..., 0]


def _percent(means_BK: F64) -> F64:
    return 100 * means_BK[..., 0]


@dataclass(frozen=True)
class Metric:
    """One row of the table.

    `rows` gives the float64 rows [S, K] of one side, or of both sides when `compares` is true: then the metric
    is a single value for the pair (agreement), otherwise each side has a value and there is a drop. `rate` marks
    the mean of 0/1 rows in percent, for which exact intervals exist. `sampled` is false for extremes, which no
    interval describes.
    """

    name: str
    title: str
    unit: str
    higher_is_better: bool
    kind: type[Samples] | tuple[type[Samples], ...]
    rows: Callable[..., F64]
    of_means: Callable[[F64], F64] | None = None
    of_rows: Callable[[F64], float] | None = None
    compares: bool = False
    rate: bool = False
    sampled: bool = True

    def value(self, *sides: Any) -> float:
        """The metric of one side, or of (reference, candidate) when it compares; whatever the samples' order.

        Raises InputError when a side is empty or not finite, or when the sides do not fit each other.
        """
        for side in sides:
            if fault := side.fault():
                raise InputError(f"{self.name} cannot be computed: {fault}")
        if self.compares and (fault := sides[0].mismatch(sides[1])):
            raise InputError(f"{self.name} cannot be computed: {fault}")
        return self.of_sorted(sort_rows(self.rows(*sides)))

    def of_sorted(self, rows_SK: F64) -> float:
        """The metric of rows that `sort_rows` has put into canonical order."""
        if self.of_rows is not None:
            return self.of_rows(rows_SK)
        assert self.of_means is not None
        return float(self.of_means(rows_SK.mean(axis=0, keepdims=True))[0])

    @property
    def needs(self) -> str:
        """The kinds of samples that it can be computed of, in words."""
        kinds = self.kind if isinstance(self.kind, tuple) else (self.kind,)
        return " or ".join(kind.kind for kind in kinds)

    def drop(self, reference: float, candidate: float) -> float:
        """How much worse the candidate is (positive: worse), in the metric's unit."""
        return reference - candidate if self.higher_is_better else candidate - reference


def sort_rows(rows_SK: F64) -> F64:
    """Rows in lexicographic order: sums, and so every result, no longer depend on the samples' order."""
    return rows_SK[np.lexsort(rows_SK.T[::-1])]


# ---- row functions ----


def correct(p: Predictions) -> NDArray[np.bool_]:
    """Bool [S]: is the largest logit the label's?"""
    return np.asarray(p.logits.argmax(axis=1) == p.labels)


def log_softmax(logits_SC: NDArray[np.float32]) -> F64:
    """Log-probabilities [S, C] in float64."""
    shifted: F64 = logits_SC.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


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


def _macro_f1(means_BK: F64) -> F64:
    """Mean F1 in percent over the classes that occur as a label or a prediction."""
    hit, predicted, actual = np.split(means_BK, 3, axis=-1)
    total = predicted + actual
    occurs = total > 0
    f1 = np.where(occurs, 2 * hit / np.where(occurs, total, 1.0), 0.0)
    return np.asarray(100 * f1.sum(axis=-1) / np.maximum(occurs.sum(axis=-1), 1))


def _sequence_rows(p: SequenceLosses) -> F64:
    return np.stack([p.nll, p.tokens.astype(np.float64), p.bytes.astype(np.float64)], axis=1)


def _token_agreement_rows(reference: NextTokens, candidate: NextTokens) -> F64:
    """[S, 2]: tokens that both take for likeliest, tokens."""
    same = (reference.best == candidate.best) & (reference.best >= 0)
    return np.stack([same.sum(axis=1), (reference.best >= 0).sum(axis=1)], axis=1).astype(np.float64)


def _token_kl_rows(reference: NextTokens, candidate: NextTokens) -> F64:
    """Mean KL(reference || candidate) in nats over the places that are kept of each sequence."""
    rows = np.empty((len(reference), 1))
    for row, (p, q) in enumerate(zip(reference.log_probs, candidate.log_probs, strict=True)):
        log_p, log_q = log_softmax(p.astype(np.float32)), log_softmax(q.astype(np.float32))
        rows[row] = np.maximum((np.exp(log_p) * (log_p - log_q)).sum(axis=1), 0.0).mean()
    return rows


def _cosine_rows(reference: Embeddings, candidate: Embeddings) -> F64:
    """The mean over the texts of a sample of the cosine to the reference's embedding."""
    return cosines(reference.vectors, candidate.vectors).mean(axis=1, keepdims=True)


def _output_rows(p: TextOutputs) -> F64:
    return p.counts.astype(np.float64)


def _bleu(rows_SK: F64) -> float:
    from compress.verification.outputs import corpus_bleu

    return corpus_bleu(rows_SK.sum(axis=0))


def _pair_rows(p: PairScores | EmbeddedPairs) -> F64:
    return np.stack([p.scores, p.gold], axis=1)


def _spearman(rows_SK: F64) -> float:
    """Rank correlation x 100. All scores equal means no ranking at all: 0."""
    from scipy.stats import rankdata

    ranks = rankdata(rows_SK, axis=0)
    ranks -= ranks.mean(axis=0)
    norm = float(np.sqrt((ranks[:, 0] ** 2).sum() * (ranks[:, 1] ** 2).sum()))
    return 100 * float((ranks[:, 0] * ranks[:, 1]).sum()) / norm if norm > 0 else 0.0


# ---- the table ----

_TABLE = (
    Metric("top1", "Top-1 accuracy", "%", True, Predictions, _correct_rows, _percent, rate=True),
    Metric("f1_macro", "Macro F1", "%", True, Predictions, _f1_rows, _macro_f1),
    Metric(
        "agreement",
        "Same answer as the reference",
        "%",
        True,
        Predictions,
        _agreement_rows,
        _percent,
        compares=True,
        rate=True,
    ),
    Metric("kl", "Mean KL from the reference", "nats", False, Predictions, _kl_rows, _first, compares=True),
    Metric(
        "max_logit_error",
        "Largest logit error",
        "",
        False,
        Predictions,
        _logit_error_rows,
        of_rows=lambda rows: float(rows.max()),
        compares=True,
        sampled=False,
    ),
    Metric("spearman", "Spearman x 100", "points", True, (PairScores, EmbeddedPairs), _pair_rows, of_rows=_spearman),
    Metric(
        "cosine",
        "Cosine to the reference's embedding",
        "",
        True,
        Embeddings,
        _cosine_rows,
        _first,
        compares=True,
    ),
    Metric(
        "perplexity",
        "Perplexity",
        "",
        False,
        SequenceLosses,
        _sequence_rows,
        lambda m: np.exp(m[..., 0] / m[..., 1]),
    ),
    Metric(
        "bits_per_byte",
        "Bits per byte",
        "bits",
        False,
        SequenceLosses,
        _sequence_rows,
        lambda m: m[..., 0] / m[..., 2] / np.log(2.0),
    ),
    Metric(
        "token_agreement",
        "Same likeliest next token as the reference",
        "%",
        True,
        NextTokens,
        _token_agreement_rows,
        lambda m: 100 * m[..., 0] / m[..., 1],
        compares=True,
    ),
    Metric("bleu", "BLEU", "points", True, TextOutputs, _output_rows, of_rows=_bleu),
    Metric("token_kl", "Mean KL per token", "nats", False, NextTokens, _token_kl_rows, _first, compares=True),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _TABLE}

TASK_METRIC = {
    "image-classification": "top1",
    "text-classification": "top1",
    "embedding": "spearman",
    "causal-lm": "perplexity",
    "text-generation": "bleu",
}

#: Tasks whose bound on a drop is in percent of the reference's value, not in the metric's unit.
RELATIVE_TASKS = {"causal-lm"}


def metrics_for(samples: Samples) -> list[Metric]:
    """The table's metrics that apply to this kind of samples, in table order."""
    return [metric for metric in METRICS.values() if isinstance(samples, metric.kind)]


# ---- plain functions ----


def top1(p: Predictions) -> float:
    """Top-1 accuracy in percent."""
    return METRICS["top1"].value(p)


def f1_macro(p: Predictions) -> float:
    """Macro F1 in percent, over the classes that occur as a label or a prediction (as scikit-learn does)."""
    return METRICS["f1_macro"].value(p)


def agreement(reference: Predictions, candidate: Predictions) -> float:
    """Percent of samples on which both give the same class."""
    return METRICS["agreement"].value(reference, candidate)


def mean_kl(reference: Predictions, candidate: Predictions) -> float:
    """Mean KL(reference || candidate) in nats."""
    return METRICS["kl"].value(reference, candidate)


def max_logit_error(reference: Predictions, candidate: Predictions) -> float:
    """Largest absolute difference of a logit."""
    return METRICS["max_logit_error"].value(reference, candidate)


def spearman(p: PairScores | EmbeddedPairs) -> float:
    """Spearman rank correlation with the gold scores, x 100."""
    return METRICS["spearman"].value(p)


def perplexity(p: SequenceLosses) -> float:
    """exp of the mean loss per token."""
    return METRICS["perplexity"].value(p)


def bits_per_byte(p: SequenceLosses) -> float:
    """Bits of loss per byte of text: comparable across tokenizers."""
    return METRICS["bits_per_byte"].value(p)
