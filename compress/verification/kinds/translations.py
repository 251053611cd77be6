"""Texts that a model wrote for source texts, judged by BLEU and chrF, and what it says of the references' tokens.

S samples, P places, V vocabulary, K columns, B bootstrap resamples.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from compress.verification.changed import ChangedExample, of_numbers
from compress.verification.kinds.losses import TOKEN_KL
from compress.verification.kinds.texts import BLEU
from compress.verification.metric import F64, OVERTURNED, Metric, neighbours, percent
from compress.verification.samples import Compact, Samples, as_array
from targets.errors import InputError

#: Orders of n-grams of characters, and how much more recall weighs than precision.
ORDERS, BETA = 6, 2


def chrf_counts(output: str, reference: str) -> list[int]:
    """What chrF counts of one text: for n-grams of 1 to 6 characters, spaces aside, how many the output has (0 where
    the reference has none, as in sacrebleu), how many the reference has, and how many are in both (Popovic 2015)."""
    texts = ["".join(text.split()) for text in (output, reference)]
    counts = []
    for order in range(1, ORDERS + 1):
        mine, gold = (Counter(text[at : at + order] for at in range(len(text) - order + 1)) for text in texts)
        counts += [mine.total() if gold else 0, gold.total(), (mine & gold).total()]
    return counts


def _chrf(means_BK: F64) -> F64:
    """chrF in percent of sums or means of `chrf_counts`, over the orders that both sides have."""
    mine, gold, both = np.moveaxis(means_BK.reshape(*means_BK.shape[:-1], ORDERS, 3), -1, 0)
    known = (mine > 0) & (gold > 0)
    orders = np.maximum(known.sum(axis=-1), 1)
    precision, recall = (
        np.where(known, both / np.where(total > 0, total, 1), 0).sum(axis=-1) / orders for total in (mine, gold)
    )
    weighed = BETA**2 * precision + recall
    return np.asarray(100 * (1 + BETA**2) * precision * recall / np.where(weighed > 0, weighed, 1))


def _chrf_rows(p: WrittenTexts) -> F64:
    return p.characters.astype(np.float64)


def _chrf_failed(rows_SK: F64) -> F64:
    """Each text without a single n-gram of its reference."""
    failed = rows_SK.copy()
    failed[:, 2::3] = 0
    return failed


def _loss_rows(p: WrittenTexts) -> F64:
    return np.stack([p.nll, p.tokens.astype(np.float64)], axis=1)


def _loss_failed(rows_SK: F64) -> F64:
    """Each text worse by as much per token as another one differs from it, and by one overturned token at least."""
    rates = rows_SK[:, :1] / rows_SK[:, 1:]
    apart = np.maximum(np.abs(neighbours(rates) - rates) * rows_SK[:, 1:], OVERTURNED)
    return np.concatenate([rows_SK[:, :1] + apart, rows_SK[:, 1:]], axis=1)


def _same_rows(reference: Translations, candidate: Translations) -> F64:
    return (reference.wrote == candidate.wrote).astype(np.float64)[:, None]


@dataclass(frozen=True, eq=False)
class WrittenTexts(Samples):
    """What BLEU and chrF count of each text that was written, int64 [S, 10] and [S, 18]; the summed loss `nll` (nats)
    of the reference's `tokens`; `gold` int64 [S]: digests of the references, which both sides share."""

    counts: NDArray[np.int64]
    characters: NDArray[np.int64]
    nll: NDArray[np.float64]
    tokens: NDArray[np.int64]
    gold: NDArray[np.int64]

    kind: ClassVar[str] = "written texts"
    shared: ClassVar[tuple[str, ...]] = ("tokens", "gold")
    metrics: ClassVar[tuple[Metric, ...]] = (
        BLEU,
        Metric("chrf", "chrF", "points", True, _chrf_rows, _chrf, unseen=_chrf_failed),
        Metric(
            "target_perplexity",
            "Perplexity of the references",
            "",
            False,
            _loss_rows,
            lambda m: np.exp(m[..., 0] / m[..., 1]),
            relative=True,
            unseen=_loss_failed,
        ),
    )

    def __post_init__(self) -> None:
        for name, dtype, ndim in _FIELDS:
            object.__setattr__(self, name, as_array(getattr(self, name), dtype, ndim, name))
        wide = (self.counts.shape[1:], self.characters.shape[1:]) == ((10,), (3 * ORDERS,))
        if not wide or len({len(value) for value in self.arrays().values()}) > 1:
            raise InputError(
                f"counts of shape {list(self.counts.shape)}, characters {list(self.characters.shape)} for "
                f"{len(self.gold)} texts: give [texts, 10] and [texts, {3 * ORDERS}]"
            )

    def knows_nothing(self, confidence: float) -> str | None:
        if self.counts[:, 1].sum():
            return None
        return "none of its texts has two words together that the reference has: do tokenizer and texts fit?"

    def most_changed(self, candidate: Self) -> list[ChangedExample]:
        was, now = (side.nll / side.tokens for side in (self, candidate))
        return of_numbers(was, now, "nats per token", lambda index: "")

    def compact(self) -> NDArray[Any]:
        return np.concatenate([self.nll, self.counts.ravel(), self.characters.ravel()]).astype("<f8")

    def restored(self, data: Compact) -> WrittenTexts:
        size = len(self)
        nll, counts, characters = np.split(np.frombuffer(data, "<f8"), [size, 11 * size])
        whole = counts.reshape(size, 10).astype(np.int64), characters.reshape(size, -1).astype(np.int64)
        return WrittenTexts(*whole, nll, self.tokens, self.gold)


_FIELDS: tuple[tuple[str, type[np.generic], int], ...] = (
    ("counts", np.int64, 2),
    ("characters", np.int64, 2),
    ("nll", np.float64, 1),
    ("tokens", np.int64, 1),
    ("gold", np.int64, 1),
)


@dataclass(frozen=True, eq=False)
class Translations(WrittenTexts):
    """The same, with digests of what was written, `wrote` int64 [S], and `log_probs` float16 [S, P, V] of the whole
    vocabulary at P places of each reference, for divergences."""

    wrote: NDArray[np.int64]
    log_probs: NDArray[np.float16]

    kind: ClassVar[str] = "translations"
    metrics: ClassVar[tuple[Metric, ...]] = (
        *WrittenTexts.metrics,
        Metric(
            "text_agreement",
            "Wrote the same text as the reference",
            "%",
            True,
            _same_rows,
            percent,
            compares=True,
            rate=True,
            unseen=np.zeros_like,
        ),
        TOKEN_KL,
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "wrote", as_array(self.wrote, np.int64, 1, "wrote"))
        object.__setattr__(self, "log_probs", as_array(self.log_probs, np.float16, 3, "log_probs"))
        super().__post_init__()

    def agree(self, other: Self) -> NDArray[np.bool_]:
        """On a text for which both wrote the same."""
        return np.asarray(self.wrote == other.wrote)

    def plain(self) -> WrittenTexts:
        return WrittenTexts(self.counts, self.characters, self.nll, self.tokens, self.gold)
