"""Which images are for what: seeded choices that depend on the images' own content or names, not on their order."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np

Indices = np.ndarray  # int64 [n], ascending
#: What people call the parts of their data: the kinds, and the first that exists is evaluated on.
_PARTS = {"train": "train(ing)?", "test": "test(ing)?", "validation": "val(id(ation)?)?|dev|eval(uation)?"}
#: What stands before or behind the kind in a name, as in images_val or train2017.
_BESIDE = "(set|data|images?|imgs?|split)"
TRAIN = "train"
EVALUATED = ("test", "validation")


def part_named(name: str) -> str | None:
    """`train`, `test` or `validation` for a file or folder that is named so in one of the usual ways, else None."""
    word = re.sub(rf"^{_BESIDE}[ _-]?|([ _-]?({_BESIDE}|\d+)|[ _-]v\d+)+$", "", name.strip().casefold())
    return next((part for part, pattern in _PARTS.items() if re.fullmatch(pattern, word)), None)


def halves(labels: np.ndarray, contents: Sequence[int], groups: Sequence[int], seed: int) -> tuple[Indices, Indices]:
    """(evaluation, healing): each class cut in two, the odd sample to evaluation, in an order drawn by `contents`.

    Samples of one group, equal ones, stay on one side, so a copy of an evaluation sample is never healed on.
    """
    ranks = _ranks([b"%d" % content for content in contents], seed)
    first: dict[int, bytes] = {}
    for group, rank in zip(groups, ranks, strict=True):
        first[group] = min(rank, first.get(group, rank))
    evaluated: dict[int, bool] = {}
    for label in np.unique(labels):
        members = sorted({groups[index] for index in np.flatnonzero(labels == label).tolist()}, key=first.__getitem__)
        for place, group in enumerate(members):
            evaluated.setdefault(group, 2 * place < len(members))
    sides = np.array([evaluated[group] for group in groups], bool)
    return np.flatnonzero(sides), np.flatnonzero(~sides)


def balanced(labels: np.ndarray, names: Sequence[str], limit: int, seed: int) -> Indices:
    """At most `limit` images, as evenly over the classes as their sizes allow."""
    ranks = _ranks([name.encode(errors="surrogatepass") for name in names], seed)
    rounds = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = sorted(np.flatnonzero(labels == label).tolist(), key=lambda i: ranks[i])
        rounds[members] = np.arange(len(members))
    order = sorted(range(len(labels)), key=lambda i: (rounds[i], ranks[i]))
    return np.array(sorted(order[:limit]), np.int64)


def _ranks(keys: Sequence[bytes], seed: int) -> list[bytes]:
    """A seeded random order that no library version can change: SHA-256 of the seed and the key."""
    return [hashlib.sha256(b"%d:" % seed + key).digest() for key in keys]
