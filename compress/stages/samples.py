"""The user's samples as the stages see them: opened from options, cut into parts, prepared for the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from compress.data import ImageDataset
    from compress.model import Structure

#: Inputs that go through a model at once, where nobody waits for a single answer.
BATCH = 128


def evaluation(data: Mapping[str, Any], structure: Structure) -> ImageDataset:
    """The samples that gates are judged on."""
    return _opened(data, "evaluation", structure, data["limit"])


def healing(data: Mapping[str, Any], structure: Structure) -> ImageDataset:
    """The samples to calibrate and heal on; none of them is evaluated on."""
    return _opened(data, "healing", structure, None)


def _opened(data: Mapping[str, Any], part: Any, structure: Structure, limit: int | None) -> ImageDataset:
    from compress.data import load

    dataset = load(data["source"], part=part, limit=limit, seed=data["seed"], skip_corrupt=bool(data["skip_corrupt"]))
    return dataset.for_labels(structure.labels)


def tensor_batches(
    dataset: ImageDataset, structure: Structure, indices: np.ndarray, batch: int = BATCH
) -> Callable[[], Iterator[dict[str, Tensor]]]:
    """A function that starts over the model's inputs for these samples."""
    import torch

    def batches() -> Iterator[dict[str, Tensor]]:
        for pixels, _ in dataset.batches(structure.preprocessing, batch_size=batch, indices=indices):
            yield {"pixel_values": torch.from_numpy(pixels)}

    return batches


def array_batches(
    dataset: ImageDataset, structure: Structure, indices: np.ndarray, batch: int = BATCH
) -> Iterator[dict[str, np.ndarray]]:
    """The same as arrays, once."""
    for pixels, _ in dataset.batches(structure.preprocessing, batch_size=batch, indices=indices):
        yield {"pixel_values": pixels}
