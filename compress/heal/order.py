"""In which order healing draws its samples: a pure function of (seed, step), so that a resumed run goes on alike."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


def epoch_order(count: int, seed: int, step: int, size: int, rank: int = 0, world: int = 1) -> np.ndarray:
    """Indices (size,) of a step: each epoch a seeded permutation of `count`, dealt out over `world` processes."""
    first = (step * world + rank) * size
    places = np.arange(first, first + size)
    epochs = {epoch: _permutation(seed, epoch, count) for epoch in set((places // count).tolist())}
    return np.array([epochs[place // count][place % count] for place in places.tolist()], np.int64)


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)
