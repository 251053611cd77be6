"""What a model answered on a data set: the base of the kinds of answers (`compress.verification.kinds`), saved as npz
without pickle.

S samples.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from runtime.files import write_atomic
from targets.errors import InputError

if TYPE_CHECKING:
    from compress.verification.changed import ChangedExample
    from compress.verification.metric import Metric


#: What `compact` gives, as bytes.
Compact = bytes


@dataclass(frozen=True, eq=False)
class Samples:
    """Base of the kinds: arrays that share their first axis. `shared` names what both sides have alike."""

    kind: ClassVar[str] = ""
    shared: ClassVar[tuple[str, ...]] = ()
    metrics: ClassVar[tuple[Metric, ...]] = ()
    """What can be computed of them, the main one first."""

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
        """Why these answers cannot be distinguished from ones that have nothing to do with the truth, or None.

        A reference like that has nothing to lose, so no drop from it means anything.
        """
        return None

    def agree(self, other: Self) -> NDArray[np.bool_]:
        """Whether both sides give the same answer, [S]."""
        pairs = [(value, other.arrays()[name]) for name, value in self.arrays().items()]
        return np.all([(one == two).reshape(len(self), -1).all(axis=1) for one, two in pairs], axis=0)

    def most_changed(self, candidate: Self) -> list[ChangedExample]:
        """The samples that moved furthest from this reference, furthest first; none where the kind has no order."""
        return []

    def right(self) -> NDArray[np.bool_] | None:
        """Whether each answer is the true one, [S]; None where answers are not simply right or wrong."""
        return None

    def groups(self) -> list[tuple[str, NDArray[np.bool_]]]:
        """Parts by what the answers are about, such as classes: names (several may be alike) and masks [S]."""
        return []

    def confusion(self) -> NDArray[np.int64] | None:
        """How many samples of each group are taken for which, [label, predicted]; None where there is no such thing."""
        return None

    def plain(self) -> Samples:
        """What of the samples the drops of their metrics are made of."""
        return self

    def compact(self) -> NDArray[Any]:
        """The answers of `plain` samples as one array, which `restored` turns back. Raises InputError."""
        raise InputError(f"{self.kind} have no metric of their own to keep; give data with scores")

    def restored(self, data: Compact) -> Samples:
        """`plain` samples on the same data with the answers of `compact`. Raises ValueError for damaged bytes."""
        raise InputError(f"{self.kind} have no metric of their own to keep; give data with scores")

    def beside(self, reference: Samples) -> Self:
        """These answers as they are judged beside the reference's, which are the truth where the data have none."""
        return self

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


def same(one: Samples, other: Samples) -> bool:
    """Whether both hold the same values bit for bit."""
    return all(np.array_equal(value, other.arrays()[name]) for name, value in one.arrays().items())


def concatenate(parts: Sequence[Samples]) -> Samples:
    """The samples of all parts (at least one, all of one kind), in order."""
    first = parts[0]
    joined = {name: np.concatenate([part.arrays()[name] for part in parts]) for name in first.arrays()}
    others = {field.name: getattr(first, field.name) for field in fields(first)}
    return type(first)(**{**others, **joined})


def as_array(value: Any, dtype: type[np.generic], ndim: int, name: str) -> NDArray[Any]:
    """An array of real numbers. Raises InputError for texts, truth values, complex numbers and times, for fractions
    where whole numbers are wanted, and for whole numbers that the type cannot hold."""
    array = np.asarray(value)
    if array.ndim != ndim:
        raise InputError(f"{name} must have {ndim} dimension(s), got shape {list(array.shape)}")
    if array.dtype.kind not in "iuf" and array.size:
        raise InputError(f"{name} must be numbers, got {array.dtype}")
    whole = np.issubdtype(dtype, np.integer)
    if whole and array.dtype.kind == "f" and array.size:
        raise InputError(f"{name} must be whole numbers, got {array.dtype}")
    kept = np.ascontiguousarray(array, dtype=dtype)
    if whole and not np.array_equal(kept, array):
        raise InputError(f"{name} hold numbers that are too large for {kept.dtype}")
    return kept
