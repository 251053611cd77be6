"""Which images are for what: seeded choices that depend on the images' own content or names, not on their order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

Indices = np.ndarray  # int64 [n], ascending


def halves(labels: np.ndarray, fingerprints: Sequence[bytes], seed: int) -> tuple[Indices, Indices]:
    """(evaluation, healing): each class cut in two, the odd image to evaluation.

    Images with the same fingerprint stay on one side, so a copy of an evaluation image is never healed on.
    """
    ranks = _ranks(fingerprints, seed)
    evaluation: list[int] = []
    healing: list[int] = []
    side: dict[bytes, list[int]] = {}
    for label in np.unique(labels):
        members = sorted(np.flatnonzero(labels == label).tolist(), key=lambda i: ranks[i])
        for place, index in enumerate(members):
            chosen = evaluation if 2 * place < len(members) else healing
            side.setdefault(ranks[index], chosen).append(index)
    return np.array(sorted(evaluation), np.int64), np.array(sorted(healing), np.int64)


def balanced(labels: np.ndarray, names: Sequence[str], limit: int, seed: int) -> Indices:
    """At most `limit` images, as evenly over the classes as their sizes allow."""
    ranks = _ranks([name.encode() for name in names], seed)
    rounds = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = sorted(np.flatnonzero(labels == label).tolist(), key=lambda i: ranks[i])
        rounds[members] = np.arange(len(members))
    order = sorted(range(len(labels)), key=lambda i: (rounds[i], ranks[i]))
    return np.array(sorted(order[:limit]), np.int64)


def _ranks(keys: Sequence[bytes], seed: int) -> list[bytes]:
    """A seeded random order that no library version can change: SHA-256 of the seed and the key."""
    return [hashlib.sha256(b"%d:" % seed + key).digest() for key in keys]
