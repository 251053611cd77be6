"""What a model answered on a data set, one frozen type per kind of task, saved as npz without pickle.

S samples, C classes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from runtime.files import write_atomic
from targets.errors import InputError


@dataclass(frozen=True, eq=False)
class Samples:
    """Base of the kinds: arrays that share their first axis. `shared` names what both sides have alike."""

    kind: ClassVar[str] = ""
    shared: ClassVar[tuple[str, ...]] = ()

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays with one row per sample, by field name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}

    def __len__(self) -> int:
        return len(next(iter(self.arrays().values())))

    def take(self, index: NDArray[Any]) -> Self:
        """The samples at `index` (integers or a mask of shape [S]), in that order."""
        others = {field.name: getattr(self, field.name) for field in fields(self)}
        return type(self)(**{**others, **{name: value[index] for name, value in self.arrays().items()}})

    def fault(self) -> str | None:
        """Why no number can be computed from these samples (empty, NaN, infinite), or None."""
        if len(self) == 0:
            return "there are no samples"
        for name, value in self.arrays().items():
            broken = ~np.isfinite(value)
            if broken.any():
                rows = np.flatnonzero(broken.reshape(len(self), -1).any(axis=1))
                where = f"{len(rows)} of {len(self)} samples, first in sample {rows[0]}"
                return f"{name} are not finite (NaN or infinite) in {where}"
        return None

    def knows_nothing(self, confidence: float) -> str | None:
        """Why these answers cannot be told from ones that have nothing to do with the truth, or None.

        A reference like that has nothing to lose, so no drop from it means anything.
        """
        return None

    def mismatch(self, other: Samples) -> str | None:
        """Why `self` and `other` cannot be compared sample by sample, or None."""
        if self.kind != other.kind:
            return f"the reference holds {self.kind} and the candidate {other.kind}"
        theirs = other.arrays()
        for name, value in self.arrays().items():
            if value.shape != theirs[name].shape:
                shapes = f"{list(value.shape)} in the reference and {list(theirs[name].shape)} in the candidate"
                return f"{name} have shape {shapes}"
            if name in self.shared and not np.array_equal(value, theirs[name]):
                differing = int((value != theirs[name]).sum())
                return f"{name} differ in {differing} of {len(self)} samples: the sides did not see the same data"
        ours, others = getattr(self, "names", None), getattr(other, "names", None)
        if ours is not None and others is not None and list(ours) != list(others):
            place = next(k for k, pair in enumerate(zip(ours, others, strict=False)) if pair[0] != pair[1])
            return f"class {place} is {ours[place]!r} in the reference and {others[place]!r} in the candidate"
        return None

    def save(self, path: Path) -> None:
        """Write an npz file. Same samples, same bytes."""
        stream = io.BytesIO()
        names: list[str] | None = getattr(self, "names", None)
        extra = {} if names is None else {"names": np.array(names, dtype=np.str_)}
        np.savez_compressed(stream, allow_pickle=False, kind=np.array(self.kind), **self.arrays(), **extra)
        write_atomic(path, stream.getvalue())


@dataclass(frozen=True, eq=False)
class Predictions(Samples):
    """A classifier's answers: `logits` float32 [S, C], true `labels` int64 [S], the C class `names` if known.

    Raises InputError if the shapes do not fit together or a label is not a class.
    """

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    names: list[str] | None = None

    kind: ClassVar[str] = "class logits"
    shared: ClassVar[tuple[str, ...]] = ("labels",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "logits", _array(self.logits, np.float32, 2, "logits"))
        object.__setattr__(self, "labels", _array(self.labels, np.int64, 1, "labels"))
        samples, classes = self.logits.shape
        if len(self.labels) != samples:
            raise InputError(f"{samples} rows of logits but {len(self.labels)} labels: give one per sample")
        if samples and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < classes:
            reach = f"from {self.labels.min()} to {self.labels.max()}"
            raise InputError(f"labels reach {reach}, but there are {classes} classes")
        if self.names is not None and len(self.names) != classes:
            raise InputError(f"{len(self.names)} class names for {classes} classes: give one name per class")

    def knows_nothing(self, confidence: float) -> str | None:
        from compress.verification.statistics import rate_interval

        classes, samples = self.logits.shape[1], len(self)
        answers = self.logits.argmax(axis=1)
        chance = float(np.bincount(answers, minlength=classes) @ np.bincount(self.labels, minlength=classes))
        hits, expected = int((answers == self.labels).sum()), chance / samples**2
        if rate_interval(hits, samples, confidence).low > expected:
            return None
        return (
            f"right in {100 * hits / samples:.1f} % of {samples:,} samples, where answers without regard to the input "
            f"would be in {100 * expected:.1f} %: do its labels, the data's class names and its preprocessing fit?"
        )

    def class_names(self) -> list[str]:
        """Names of the C classes; their numbers where no names are known."""
        return list(self.names) if self.names is not None else [str(k) for k in range(self.logits.shape[1])]


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

    def __post_init__(self) -> None:
        object.__setattr__(self, "nll", _array(self.nll, np.float64, 1, "nll"))
        for name in self.shared:
            value = _array(getattr(self, name), np.int64, 1, name)
            object.__setattr__(self, name, value)
            if value.shape != self.nll.shape or (value < 1).any():
                raise InputError(f"{name} must hold one count of at least 1 per sequence")

    def knows_nothing(self, confidence: float) -> str | None:
        bits = float(self.nll.sum() / self.bytes.sum() / np.log(2))
        if bits < 8:
            return None
        return f"{bits:.1f} bits per byte, where guessing bytes takes 8: do tokenizer and text fit?"


@dataclass(frozen=True, eq=False)
class NextTokens(SequenceLosses):
    """The losses, and of every token what the model took for likeliest: `best` int32 [S, N], -1 behind the sequence's
    end. `log_probs` float16 [S, P, V] of the whole vocabulary at P places of each sequence, for divergences."""

    best: NDArray[np.int32]
    log_probs: NDArray[np.float16]

    kind: ClassVar[str] = "next tokens"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "best", _array(self.best, np.int32, 2, "best"))
        object.__setattr__(self, "log_probs", _array(self.log_probs, np.float16, 3, "log_probs"))
        if not len(self.nll) == len(self.best) == len(self.log_probs):
            raise InputError("best and log_probs must have one row per sequence")


@dataclass(frozen=True, eq=False)
class PairScores(Samples):
    """An embedding model's similarity `scores` of S pairs, beside the people's `gold` scores."""

    scores: NDArray[np.float64]
    gold: NDArray[np.float64]

    kind: ClassVar[str] = "pair scores"
    shared: ClassVar[tuple[str, ...]] = ("gold",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scores", _array(self.scores, np.float64, 1, "scores"))
        object.__setattr__(self, "gold", _array(self.gold, np.float64, 1, "gold"))
        if self.scores.shape != self.gold.shape:
            raise InputError(f"{len(self.scores)} scores but {len(self.gold)} gold scores: give one per pair")

    def knows_nothing(self, confidence: float) -> str | None:
        return _unrelated(self.scores, self.gold, confidence)


@dataclass(frozen=True, eq=False)
class Embeddings(Samples):
    """An embedding model's answers: `vectors` float32 [S, T, D] of the T texts (1, or 2 for pairs) of each sample."""

    vectors: NDArray[np.float32]

    kind: ClassVar[str] = "embeddings"

    def __post_init__(self) -> None:
        object.__setattr__(self, "vectors", _array(self.vectors, np.float32, 3, "vectors"))


@dataclass(frozen=True, eq=False)
class EmbeddedPairs(Embeddings):
    """The two embeddings [S, 2, D] of each pair of texts, beside the people's `gold` scores."""

    gold: NDArray[np.float64]

    kind: ClassVar[str] = "embedded pairs"
    shared: ClassVar[tuple[str, ...]] = ("gold",)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "gold", _array(self.gold, np.float64, 1, "gold"))
        if self.vectors.shape[:2] != (len(self.gold), 2):
            shape = list(self.vectors.shape)
            raise InputError(f"vectors of shape {shape} for {len(self.gold)} gold scores: give [pairs, 2, width]")

    def knows_nothing(self, confidence: float) -> str | None:
        return _unrelated(self.scores, self.gold, confidence)

    @property
    def scores(self) -> NDArray[np.float64]:
        """Cosine similarity of each pair, float64 [S]."""
        return cosines(self.vectors[:, 0], self.vectors[:, 1])


@dataclass(frozen=True, eq=False)
class TextOutputs(Samples):
    """What BLEU counts of each text that a system wrote, int64 [S, 10]: n-grams of 1 to 4 that are right, n-grams of 1
    to 4, its length and the reference's. `gold` int64 [S]: digests of the references, which both sides must share."""

    counts: NDArray[np.int64]
    gold: NDArray[np.int64]

    kind: ClassVar[str] = "text outputs"
    shared: ClassVar[tuple[str, ...]] = ("gold",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts", _array(self.counts, np.int64, 2, "counts"))
        object.__setattr__(self, "gold", _array(self.gold, np.int64, 1, "gold"))
        if self.counts.shape != (len(self.gold), 10):
            raise InputError(f"counts of shape {list(self.counts.shape)} for {len(self.gold)} texts: give [texts, 10]")


def cosines(first_SD: NDArray[np.float32], second_SD: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine of the angle between rows, float64; 0 where one of them is zero."""
    first, second = first_SD.astype(np.float64), second_SD.astype(np.float64)
    norms = np.sqrt((first**2).sum(axis=-1) * (second**2).sum(axis=-1))
    return np.asarray((first * second).sum(axis=-1) / np.where(norms > 0, norms, 1.0))


def _unrelated(scores_S: NDArray[np.float64], gold_S: NDArray[np.float64], confidence: float) -> str | None:
    """Why the scores cannot be told from ones that have nothing to do with the gold scores, or None."""
    from scipy.stats import spearmanr

    constant = np.ptp(scores_S) == 0 or np.ptp(gold_S) == 0
    if not constant and spearmanr(scores_S, gold_S, alternative="greater").pvalue < (1 - confidence) / 2:
        return None
    return f"its scores of {len(scores_S):,} pairs do not rise with the gold scores: do tokenizer and data fit?"


KINDS: tuple[type[Samples], ...] = (
    Predictions,
    NextTokens,
    SequenceLosses,
    PairScores,
    EmbeddedPairs,
    Embeddings,
    TextOutputs,
)


def same(one: Samples, other: Samples) -> bool:
    """Whether both hold the same values bit for bit."""
    return all(np.array_equal(value, other.arrays()[name]) for name, value in one.arrays().items())


def concatenate(parts: Sequence[Samples]) -> Samples:
    """The samples of all parts (at least one, all of one kind), in order."""
    first = parts[0]
    joined = {name: np.concatenate([part.arrays()[name] for part in parts]) for name in first.arrays()}
    others = {field.name: getattr(first, field.name) for field in fields(first)}
    return type(first)(**{**others, **joined})


def _array(value: Any, dtype: type[np.generic], ndim: int, name: str) -> NDArray[Any]:
    array = np.asarray(value)
    if array.ndim != ndim:
        raise InputError(f"{name} must have {ndim} dimension(s), got shape {list(array.shape)}")
    if not (np.issubdtype(array.dtype, np.number) or array.size == 0):
        raise InputError(f"{name} must be numbers, got {array.dtype}")
    if np.issubdtype(dtype, np.integer) and not np.issubdtype(array.dtype, np.integer) and array.size:
        raise InputError(f"{name} must be whole numbers, got {array.dtype}")
    return np.ascontiguousarray(array, dtype=dtype)
