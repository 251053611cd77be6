"""A data set as both sides of a comparison see it. One subclass per kind of input; what judges knows only this.

S samples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from compress.judging.side import Side, is_predictions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from compress.tasks.task import Task
    from compress.verification.report_data import BlockRow
    from compress.verification.samples import Samples

Advance = Callable[[int], None]
Part = Literal["evaluation", "all"]
#: Inputs on which blocks are compared: their errors vary little from input to input.
BLOCK_SAMPLES, BLOCK_BATCH = 64, 16


def nothing(done: int) -> None:
    """For whoever is not told how many samples are done."""


class Questions(ABC):
    """The sides, opened, and the samples that they are asked. A side is None where its answers come from a file."""

    noun: str
    """What a sample is, in the plural."""

    def __init__(self, reference: str, candidate: str) -> None:
        """Opens both. Raises InputError or EnvironmentLacks."""
        self.reference, self.candidate = (
            None if is_predictions(spec) else self.open(spec) for spec in (reference, candidate)
        )

    @property
    def sides(self) -> list[Side]:
        """Those that are models."""
        return [side for side in (self.reference, self.candidate) if side is not None]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def open(self, spec: str) -> Side:
        """Raises InputError for what is no model of this kind, EnvironmentLacks if it cannot run here."""

    @abstractmethod
    def answers(self, side: Any, advance: Advance = nothing, indices: NDArray[np.int64] | None = None) -> Samples:
        """The side's answers to the samples at `indices` (all by default), in that order. Raises InputError."""

    @abstractmethod
    def fresh_answers(self, side: Any, indices: NDArray[np.int64]) -> Samples:
        """The side's answers to inputs that resemble these samples and that no data set has."""

    @abstractmethod
    def fingerprints(self) -> list[tuple[int, ...]]:
        """Of the content of each sample (see `compress.data.seen`)."""

    @property
    @abstractmethod
    def task(self) -> Task:
        """What both sides are asked to do."""

    @property
    @abstractmethod
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the data: what was passed over, how classes were matched."""

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """What each sample is called in the data."""

    @abstractmethod
    def shown(self, indices: Sequence[int]) -> dict[str, dict[int, str]]:
        """These samples for people: `pictures` (PNG, base64) or `texts` of a report, by index."""

    @abstractmethod
    def slices(self) -> dict[str, NDArray[np.bool_]]:
        """Parts of the data that may fare worse than the rest: name -> mask [S]."""

    @abstractmethod
    def inputs(self, side: Any, indices: NDArray[np.int64]) -> Iterator[dict[str, NDArray[Any]]]:
        """The canonical model's inputs for these samples as the side prepares them, in batches."""

    def blocks(self) -> tuple[list[BlockRow], str | None]:
        """The candidate's blocks held against the reference's; or none, and why, where they cannot be."""
        if self.reference is None or self.candidate is None:
            return [], None
        if self.reference.canonical is None or self.candidate.canonical is None:
            return [], None
        from compress.judging.blocks import comparable, compare_blocks

        original, model = self.reference.canonical(), self.candidate.canonical()
        if fault := comparable(original.structure, model.structure):
            return [], f"The blocks were not compared: {fault}."
        import torch

        batches = (
            {name: torch.from_numpy(array) for name, array in inputs.items()}
            for inputs in self.inputs(self.reference, spread(len(self), BLOCK_SAMPLES))
        )
        return compare_blocks(original, model, batches), None


def spread(size: int, most: int) -> NDArray[np.int64]:
    """At most so many indices, evenly over `size` samples."""
    return np.unique(np.linspace(0, size - 1, most).astype(np.int64))
