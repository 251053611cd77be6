"""Losses of a language model: a sequence each, judged by perplexity, or its hidden tokens, by pseudo-perplexity.

S samples, N tokens, P places, V vocabulary, K columns, B bootstrap resamples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from compress.verification.changed import ChangedExample, of_numbers
from compress.verification.metric import F64, OVERTURNED, Metric, first, kl_failed, log_softmax, neighbours
from compress.verification.samples import Compact, Samples, as_array
from targets.errors import InputError

#: Two models agree on a text where more than this share of its likeliest tokens is the same.
SAME_TOKENS = 0.5


def _sequence_rows(p: SequenceLosses) -> F64:
    return np.stack([p.nll, p.tokens.astype(np.float64), p.bytes.astype(np.float64)], axis=1)


def _sequence_failed(rows_SK: F64) -> F64:
    """Each sequence worse by as much per token as another one differs from it, and by one overturned token at least."""
    rates = rows_SK[:, :1] / rows_SK[:, 1:2]
    apart = np.maximum(np.abs(neighbours(rates) - rates) * rows_SK[:, 1:2], OVERTURNED)
    return np.concatenate([rows_SK[:, :1] + apart, rows_SK[:, 1:]], axis=1)


def _agreement_failed(rows_SK: F64) -> F64:
    return np.stack([np.zeros(len(rows_SK)), rows_SK[:, 1]], axis=1)


def _bits_per_byte(means_BK: F64) -> F64:
    return means_BK[..., 0] / means_BK[..., 2] / np.log(2.0)


def _token_agreement_rows(reference: NextTokens, candidate: NextTokens) -> F64:
    """[S, 2]: tokens that both take for likeliest, tokens."""
    same = (reference.best == candidate.best) & (reference.best >= 0)
    return np.stack([same.sum(axis=1), (reference.best >= 0).sum(axis=1)], axis=1).astype(np.float64)


def _token_kl_rows(reference: Any, candidate: Any) -> F64:
    """Mean KL(reference || candidate) in nats over the places that are kept of each sequence."""
    rows = np.empty((len(reference), 1))
    for row, (p, q) in enumerate(zip(reference.log_probs, candidate.log_probs, strict=True)):
        log_p, log_q = log_softmax(p.astype(np.float32)), log_softmax(q.astype(np.float32))
        rows[row] = np.maximum((np.exp(log_p) * (log_p - log_q)).sum(axis=1), 0.0).mean()
    return rows


def _masked_rows(p: MaskedTokens) -> F64:
    return np.stack([p.nll, (p.gold >= 0).sum(axis=1).astype(np.float64)], axis=1)


def _masked_right_rows(p: MaskedTokens) -> F64:
    """[S, 2]: hidden tokens that are the likeliest, hidden tokens."""
    real = p.gold >= 0
    return np.stack([((p.best == p.gold) & real).sum(axis=1), real.sum(axis=1)], axis=1).astype(np.float64)


def _masked_agreement_rows(reference: MaskedTokens, candidate: MaskedTokens) -> F64:
    real = reference.gold >= 0
    same = (reference.best == candidate.best) & real
    return np.stack([same.sum(axis=1), real.sum(axis=1)], axis=1).astype(np.float64)


def _share(means_BK: F64) -> F64:
    return 100 * means_BK[..., 0] / means_BK[..., 1]


#: Of anything with `log_probs` at places of sequences.
TOKEN_KL = Metric(
    "token_kl", "Mean KL per token", "nats", False, _token_kl_rows, first, compares=True, unseen=kl_failed
)


@dataclass(frozen=True, eq=False)
class SequenceLosses(Samples):
    """A language model's losses: per sequence the summed loss `nll` (nats), its `tokens` and `bytes`.

    A sample is a whole sequence, so that resampling respects the dependence between its tokens.
    """

    nll: NDArray[np.float64]
    tokens: NDArray[np.int64]
    bytes: NDArray[np.int64]

    kind: ClassVar[str] = "sequence losses"
    shared: ClassVar[tuple[str, ...]] = ("tokens", "bytes")
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(
            "perplexity",
            "Perplexity",
            "",
            False,
            _sequence_rows,
            lambda m: np.exp(m[..., 0] / m[..., 1]),
            relative=True,
            unseen=_sequence_failed,
        ),
        Metric(
            "bits_per_byte",
            "Bits per byte",
            "bits",
            False,
            _sequence_rows,
            _bits_per_byte,
            unseen=_sequence_failed,
        ),
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "nll", as_array(self.nll, np.float64, 1, "nll"))
        for name in self.shared:
            value = as_array(getattr(self, name), np.int64, 1, name)
            object.__setattr__(self, name, value)
            if value.shape != self.nll.shape or (value < 1).any():
                raise InputError(f"{name} must hold one count of at least 1 per sequence")

    def knows_nothing(self, confidence: float) -> str | None:
        bits = float(self.nll.sum() / self.bytes.sum() / np.log(2))
        if bits < 8:
            return None
        return f"{bits:.1f} bits per byte, where guessing bytes takes 8: do tokenizer and text fit?"

    def fault(self) -> str | None:
        if (fault := super().fault()) is not None:
            return fault
        rows = np.flatnonzero(self.nll <= 0)
        if len(rows) == 0:
            return None
        where = f"{len(rows)} of {len(self)} samples, first in sample {rows[0]}"
        return f"losses are 0 or below in {where}, which no model reaches: are all tokens masked?"

    def most_changed(self, candidate: Self) -> list[ChangedExample]:
        was, now = (side.nll / side.tokens for side in (self, candidate))
        return of_numbers(was, now, "nats per token", lambda index: "")

    def compact(self) -> NDArray[Any]:
        return self.nll.astype("<f8")

    def restored(self, data: Compact) -> SequenceLosses:
        return SequenceLosses(np.frombuffer(data, "<f8"), self.tokens, self.bytes)


@dataclass(frozen=True, eq=False)
class NextTokens(SequenceLosses):
    """The losses, and of every token what the model took for likeliest: `best` int32 [S, N], -1 behind the sequence's
    end. `log_probs` float16 [S, P, V] of the whole vocabulary at P places of each sequence, for divergences."""

    best: NDArray[np.int32]
    log_probs: NDArray[np.float16]

    kind: ClassVar[str] = "next tokens"
    metrics: ClassVar[tuple[Metric, ...]] = (
        *SequenceLosses.metrics,
        Metric(
            "token_agreement",
            "Same likeliest next token as the reference",
            "%",
            True,
            _token_agreement_rows,
            lambda m: 100 * m[..., 0] / m[..., 1],
            compares=True,
            unseen=_agreement_failed,
        ),
        TOKEN_KL,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "best", as_array(self.best, np.int32, 2, "best"))
        object.__setattr__(self, "log_probs", as_array(self.log_probs, np.float16, 3, "log_probs"))
        if not len(self.nll) == len(self.best) == len(self.log_probs):
            raise InputError("best and log_probs must have one row per sequence")

    def agree(self, other: Self) -> NDArray[np.bool_]:
        """On a text where most of the likeliest tokens are the same."""
        equal = (self.best == other.best) & (self.best >= 0)
        return np.asarray(equal.sum(axis=1) > SAME_TOKENS * self.tokens)

    def plain(self) -> SequenceLosses:
        return SequenceLosses(self.nll, self.tokens, self.bytes)


@dataclass(frozen=True, eq=False)
class MaskedTokens(Samples):
    """A masked language model's answers: the summed loss `nll` (nats) [S] of a text's hidden tokens, the token that the
    model took for likeliest at each, `best` int64 [S, P], and the true one, `gold` int64 [S, P], -1 behind the last.

    exp of the mean loss is the pseudo-perplexity (Salazar et al. 2020, arXiv 1910.14659), here of a share of the tokens
    that are hidden together. Raises InputError if the shapes do not fit together or a text has no hidden token.
    """

    nll: NDArray[np.float64]
    best: NDArray[np.int64]
    gold: NDArray[np.int64]

    kind: ClassVar[str] = "masked tokens"
    shared: ClassVar[tuple[str, ...]] = ("gold",)
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(
            "pseudo_perplexity",
            "Pseudo-perplexity",
            "",
            False,
            _masked_rows,
            lambda m: np.exp(m[..., 0] / m[..., 1]),
            relative=True,
            unseen=_sequence_failed,
        ),
        Metric("masked_top1", "Hidden tokens found", "%", True, _masked_right_rows, _share, unseen=_agreement_failed),
        Metric(
            "masked_agreement",
            "Same likeliest hidden token as the reference",
            "%",
            True,
            _masked_agreement_rows,
            _share,
            compares=True,
            unseen=_agreement_failed,
        ),
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "nll", as_array(self.nll, np.float64, 1, "nll"))
        for name in ("best", "gold"):
            object.__setattr__(self, name, as_array(getattr(self, name), np.int64, 2, name))
        if self.best.shape != self.gold.shape or len(self.gold) != len(self.nll):
            raise InputError(
                f"nll of shape {list(self.nll.shape)}, best {list(self.best.shape)}, gold {list(self.gold.shape)}"
            )
        if len(self) and not (self.gold >= 0).any(axis=1).all():
            raise InputError("each text needs one hidden token at least in gold")

    def knows_nothing(self, confidence: float) -> str | None:
        right, hidden = _masked_right_rows(self).sum(axis=0).astype(int)
        return None if right else f"none of {hidden:,} hidden tokens is found: do tokenizer and texts fit?"

    def agree(self, other: Self) -> NDArray[np.bool_]:
        """On a text where most of the likeliest hidden tokens are the same."""
        same, hidden = _masked_agreement_rows(self, other).T
        return np.asarray(same > SAME_TOKENS * hidden)

    def most_changed(self, candidate: Self) -> list[ChangedExample]:
        count = (self.gold >= 0).sum(axis=1)
        return of_numbers(self.nll / count, candidate.nll / count, "nats per hidden token", lambda index: "")

    def compact(self) -> NDArray[Any]:
        return np.concatenate([self.nll, self.best.ravel()]).astype("<f8")

    def restored(self, data: Compact) -> MaskedTokens:
        numbers = np.frombuffer(data, "<f8")
        nll, best = numbers[: len(self)], numbers[len(self) :].reshape(self.gold.shape)
        return MaskedTokens(nll, best.astype(np.int64), self.gold)
