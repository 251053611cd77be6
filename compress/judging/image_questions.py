"""Images as the sides of a comparison see them.

B batch, C classes, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress import tasks
from compress.judging.questions import BLOCK_BATCH, Advance, Part, Questions, nothing
from compress.judging.sides import ImageSide, logits_of, open_side, padded, predict
from compress.tasks.task import Task
from compress.verification.kinds.classes import Predictions
from compress.verification.slices import of_images


class ImageQuestions(Questions):
    """Each side prepares images as it says itself; one that does not say, as the other does."""

    noun = "images"

    def __init__(self, reference: str, candidate: str, data: str, part: Part) -> None:
        from compress.data import load

        self.data = load(data, part=part)
        super().__init__(reference, candidate)
        sections = [side.preprocessing for side in self.sides if isinstance(side, ImageSide) and side.preprocessing]
        self._preprocessing: dict[str, Any] | None = sections[0] if sections else None

    def __len__(self) -> int:
        return len(self.data)

    def open(self, spec: str) -> ImageSide:
        return open_side(spec)

    def answers(self, side: Any, advance: Advance = nothing, indices: NDArray[np.int64] | None = None) -> Predictions:
        data = self.data if indices is None else self.data.subset(indices)
        return predict(side, data, self._preprocessing, advance)

    def fresh_answers(self, side: Any, indices: NDArray[np.int64]) -> Predictions:
        """Mirrored images, which no data set holds."""
        mirrored = [image[:, ::-1] for image in self.data.raw(indices)]
        names = list(side.labels) if side.labels is not None else None
        labels = (self.data if names is None else self.data.for_labels(names)).labels[indices]
        return Predictions(logits_of(side, mirrored, self._preprocessing), labels, names)

    def fingerprints(self) -> list[tuple[int, ...]]:
        return self.data.fingerprints()

    @property
    def task(self) -> Task:
        return tasks.get("image-classification")

    @property
    def notes(self) -> tuple[str, ...]:
        labels = [side.labels for side in self.sides if isinstance(side, ImageSide) and side.labels]
        matched = [self.data, *map(self.data.for_labels, labels)]
        of_sides = [note for side in self.sides for note in side.notes]
        return tuple(dict.fromkeys([*of_sides, *(note for data in matched for note in data.notes)]))

    @property
    def names(self) -> Sequence[str]:
        return self.data.names

    def shown(self, indices: Sequence[int]) -> dict[str, dict[int, str]]:
        from compress.verification.report import picture

        return {"pictures": dict(zip(indices, map(picture, self.data.raw(indices)), strict=True))}

    def slices(self) -> dict[str, NDArray[np.bool_]]:
        return of_images(self.data)

    def inputs(self, side: Any, indices: NDArray[np.int64]) -> Iterator[dict[str, NDArray[Any]]]:
        section = side.preprocessing or self._preprocessing or {}
        for pixels, _ in self.data.batches(section, batch_size=side.fixed_batch or BLOCK_BATCH, indices=indices):
            yield {"pixel_values": padded(pixels, side.fixed_batch)}
