"""Tokens that were put in the place of others, and those that a model takes for such, judged by micro F1.

S samples, N tokens of the longest sample, K columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from compress.verification.changed import ChangedExample, examples
from compress.verification.metric import F64, Metric, micro_f1, most_right, none_right
from compress.verification.samples import Compact, Samples, as_array
from compress.verification.statistics import rate_interval
from targets.errors import InputError


def _counts(p: Detections) -> F64:
    """[S, 3]: tokens that are rightly found, found, and replaced."""
    found, true = p.found(), p.gold > 0
    return np.stack([(found & true).sum(axis=1), found.sum(axis=1), true.sum(axis=1)], axis=1).astype(np.float64)


def _same_rows(reference: Detections, candidate: Detections) -> F64:
    """[S, 2]: tokens with the same decision, tokens."""
    real = reference.gold >= 0
    same = (reference.found() == candidate.found()) & real
    return np.stack([same.sum(axis=1), real.sum(axis=1)], axis=1).astype(np.float64)


def _none_same(rows_SK: F64) -> F64:
    return rows_SK * [0, 1]


@dataclass(frozen=True, eq=False)
class Detections(Samples):
    """A model's `logits` float32 [S, N], above 0 for tokens that it takes for replaced, and which are, `gold` int64
    [S, N] of 0 and 1, -1 behind the end of a sample and at special tokens.

    Raises InputError if the shapes do not fit together or gold is something else.
    """

    logits: NDArray[np.float32]
    gold: NDArray[np.int64]

    kind: ClassVar[str] = "replaced tokens"
    shared: ClassVar[tuple[str, ...]] = ("gold",)
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(
            "replaced_f1",
            "F1 of replaced tokens",
            "%",
            True,
            _counts,
            micro_f1,
            unseen=none_right,
            dearest=most_right,
        ),
        Metric(
            "replaced_agreement",
            "Same decision on a token as the reference",
            "%",
            True,
            _same_rows,
            lambda m: 100 * m[..., 0] / m[..., 1],
            compares=True,
            unseen=_none_same,
        ),
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "logits", as_array(self.logits, np.float32, 2, "logits"))
        object.__setattr__(self, "gold", as_array(self.gold, np.int64, 2, "gold"))
        if self.logits.shape != self.gold.shape:
            raise InputError(f"logits of shape {list(self.logits.shape)} for gold {list(self.gold.shape)}")
        if not np.isin(self.gold, (-1, 0, 1)).all():
            raise InputError("gold must be 0 or 1 for each token, and -1 behind the end")

    def found(self) -> NDArray[np.bool_]:
        """The tokens that the model takes for replaced, [S, N]."""
        return np.asarray((self.logits > 0) & (self.gold >= 0))

    def knows_nothing(self, confidence: float) -> str | None:
        right, found, true = _counts(self).sum(axis=0).astype(int)
        if not found:
            return f"it takes none of the {int((self.gold >= 0).sum()):,} tokens for replaced: is it a discriminator?"
        chance = true / int((self.gold >= 0).sum())
        if rate_interval(int(right), int(found), confidence).low > chance:
            return None
        return (
            f"right in {100 * right / found:.1f} % of the {found:,} tokens that it takes for replaced, of which "
            f"{100 * chance:.1f} % are: is it a discriminator, and is this its tokenizer?"
        )

    def agree(self, other: Self) -> NDArray[np.bool_]:
        """On a text in which every decision is the same."""
        return np.asarray((self.found() == other.found()).all(axis=1))

    def most_changed(self, candidate: Self) -> list[ChangedExample]:
        moved = (self.found() != candidate.found()).sum(axis=1).astype(np.float64)
        return examples(
            moved,
            "tokens",
            lambda index: _told(self.found()[index]),
            lambda index: _told(candidate.found()[index]),
            lambda index: _told(self.gold[index] > 0),
        )

    def compact(self) -> NDArray[Any]:
        return self.found().astype("<u1").ravel()

    def restored(self, data: Compact) -> Detections:
        """Logits are 1 for what was found and -1 elsewhere, which keeps every drop."""
        found = np.frombuffer(data, "<u1").reshape(self.logits.shape)
        return Detections(np.where(found > 0, 1, -1).astype(np.float32), self.gold)


def _told(found_N: NDArray[np.bool_]) -> str:
    """The places of tokens, counted from 1."""
    return ", ".join(f"token {place + 1}" for place in np.flatnonzero(found_N)) or "none"
