"""Tags of words, judged by the F1 of the entities that they mean.

S samples, W words of the longest sample, K columns, B bootstrap resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from compress.verification.changed import ChangedExample, examples
from compress.verification.metric import F64, Metric, micro_f1, most_right, none_right
from compress.verification.samples import Compact, Samples, as_array
from runtime.texts.words import NO_ENTITY, Entity, entities_of
from targets.errors import InputError


def _entity_rows(p: WordTags) -> F64:
    """[S, 3]: entities that are right, found and true."""
    counts = [(len(found & true), len(found), len(true)) for found, true in zip(p.found(), p.true(), strict=True)]
    return np.array(counts, np.float64).reshape(-1, 3)


def _none_alike(rows_SK: F64) -> F64:
    return rows_SK * [0, 1]


def _agreement_rows(reference: WordTags, candidate: WordTags) -> F64:
    """[S, 2]: words with the same tag, words."""
    real = reference.gold >= 0
    same = (reference.tags == candidate.tags) & real
    return np.stack([same.sum(axis=1), real.sum(axis=1)], axis=1).astype(np.float64)


@dataclass(frozen=True, eq=False)
class WordTags(Samples):
    """The tag that a model gives to each word, `tags` int64 [S, W], and the true ones, `gold` int64 [S, W], which are
    -1 behind the end of a sample. A tag of -1 at a word (which was cut off) is not an entity. `names` of the tags.

    Raises InputError if the shapes do not fit together or a number is not a tag.
    """

    tags: NDArray[np.int64]
    gold: NDArray[np.int64]
    names: list[str] = field(default_factory=list)

    kind: ClassVar[str] = "word tags"
    shared: ClassVar[tuple[str, ...]] = ("gold",)
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(
            "entity_f1",
            "Entity F1",
            "%",
            True,
            _entity_rows,
            micro_f1,
            unseen=none_right,
            dearest=most_right,
        ),
        Metric(
            "tag_agreement",
            "Same tag of a word as the reference",
            "%",
            True,
            _agreement_rows,
            lambda m: 100 * m[..., 0] / m[..., 1],
            compares=True,
            unseen=_none_alike,
        ),
    )

    def __post_init__(self) -> None:
        for name in ("tags", "gold"):
            object.__setattr__(self, name, as_array(getattr(self, name), np.int64, 2, name))
        if self.tags.shape != self.gold.shape:
            raise InputError(f"tags of shape {list(self.tags.shape)} for gold tags {list(self.gold.shape)}")
        for name, value in (("tags", self.tags), ("gold", self.gold)):
            if value.size and not -1 <= int(value.min()) <= int(value.max()) < len(self.names):
                raise InputError(f"{name} reach from {value.min()} to {value.max()}, but there are {len(self.names)}")

    def found(self) -> list[set[Entity]]:
        """The entities of each sample by the model."""
        return self._entities(self.tags)

    def true(self) -> list[set[Entity]]:
        """The true entities of each sample."""
        return self._entities(self.gold)

    def _entities(self, tags_SW: NDArray[np.int64]) -> list[set[Entity]]:
        rows = zip(tags_SW, self.gold >= 0, strict=True)
        return [set(entities_of(self._named(tags_W[real_W]))) for tags_W, real_W in rows]

    def _named(self, tags_W: Sequence[int] | NDArray[np.int64]) -> list[str]:
        return [self.names[tag] if tag >= 0 else NO_ENTITY for tag in tags_W]

    def knows_nothing(self, confidence: float) -> str | None:
        right, found, true = _entity_rows(self).sum(axis=0).astype(int)
        if right:
            return None
        return f"none of its {found:,} entities is one of the {true:,} in the data: do its tags and the data's fit?"

    def agree(self, other: Self) -> NDArray[np.bool_]:
        """On a text in which most words have the same tag."""
        same, words = _agreement_rows(self, other).T
        return np.asarray(same > 0.5 * words)

    def most_changed(self, candidate: Self) -> list[ChangedExample]:
        moved = ((self.tags != candidate.tags) & (self.gold >= 0)).sum(axis=1).astype(np.float64)
        return examples(
            moved,
            "words",
            lambda index: self._told(self.tags[index], index),
            lambda index: self._told(candidate.tags[index], index),
            lambda index: self._told(self.gold[index], index),
        )

    def _told(self, tags_W: NDArray[np.int64], index: int) -> str:
        """Entities by the words that they are, counted from 1."""
        found = entities_of(self._named(tags_W[self.gold[index] >= 0]))
        return ", ".join(f"{one.kind} {one.first + 1}-{one.last + 1}" for one in found) or "no entity"

    def compact(self) -> NDArray[Any]:
        return self.tags.astype("<i2").ravel()

    def restored(self, data: Compact) -> WordTags:
        return WordTags(np.frombuffer(data, "<i2").reshape(self.tags.shape), self.gold, self.names)
