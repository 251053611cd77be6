"""A data set as both sides of a comparison see it, each prepared as it says itself; one that does not say, as the other
does.

S samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress import tasks
from compress.judging.side import Side, is_predictions
from compress.judging.sides import open_side
from compress.tasks.task import AnyPart, DataChoice
from targets.errors import InputError

if TYPE_CHECKING:
    from compress.tasks.task import Prepared, Task
    from compress.verification.report_data import BlockRow
    from compress.verification.samples import Samples

Advance = Callable[[int], None]
#: The samples of the data as a side wants them.
Prepare = Callable[[Side], "Prepared"]
#: Inputs on which blocks are compared: their errors vary little from input to input.
BLOCK_SAMPLES, BLOCK_BATCH = 64, 16


def nothing(done: int) -> None:
    """For whoever is not told how many samples are done."""


class Questions:
    """The sides, opened, and the samples that they are asked. A side is None where its answers come from a file."""

    def __init__(self, task: Task, reference: Side | None, candidate: Side | None, prepare: Prepare) -> None:
        self.task, self.reference, self.candidate = task, reference, candidate
        self._prepare = prepare
        self._prepared: dict[str, Prepared] = {}
        self._fingerprints: list[tuple[int, ...]] | None = None

    @property
    def sides(self) -> list[Side]:
        """Those that are models."""
        return [side for side in (self.reference, self.candidate) if side is not None]

    @property
    def noun(self) -> str:
        """What a sample is, in the plural."""
        return self.task.noun

    @property
    def _whole(self) -> Prepared:
        """As the first side sees them."""
        return self.prepared(self.sides[0])

    def prepared(self, side: Side) -> Prepared:
        """The samples as a side wants them. Raises InputError."""
        if side.name not in self._prepared:
            self._prepared[side.name] = self._prepare(side)
        return self._prepared[side.name]

    def __len__(self) -> int:
        return len(self._whole)

    def open(self, spec: str) -> Side:
        """Another model for the same samples. Raises InputError for one of another task, EnvironmentLacks."""
        return _of_task(open_side(spec).completed(self.sides[0]), self.task)

    def answers(self, side: Side, advance: Advance = nothing, indices: NDArray[np.int64] | None = None) -> Samples:
        """The side's answers to the samples at `indices` (all by default), in that order. Raises InputError."""
        data = self.prepared(side)
        if len(data) != len(self):
            raise InputError(
                f"{side.name} can be asked {len(data)} {self.noun} of {data.location}, the other side {len(self)}: "
                "their tokenizers differ, so they cannot be compared one by one"
            )
        return self._ask(side, data if indices is None else data.subset(indices.tolist()), advance)

    def fresh_answers(self, side: Side, indices: NDArray[np.int64]) -> Samples:
        """The side's answers to inputs that resemble these samples and that no data set has."""
        return self._ask(side, self.task.fresh(self.prepared(side), indices.tolist()), nothing)

    def _ask(self, side: Side, data: Prepared, advance: Advance) -> Samples:
        before = 0

        def tell(done: int, **numbers: float) -> None:
            nonlocal before
            advance(done - before)
            before = done

        return self.task.answers(side.runner(), data, tell, side.batch or side.most)

    def fingerprints(self) -> list[tuple[int, ...]]:
        """Of the content of each sample (see `compress.data.seen`)."""
        if self._fingerprints is None:
            self._fingerprints = self._whole.fingerprints()
        return self._fingerprints

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know: how the models were read, what was passed over, how classes were matched."""
        of_sides = [note for side in self.sides for note in side.notes]
        of_data = [note for side in self.sides for note in self.prepared(side).notes]
        return tuple(dict.fromkeys([*of_sides, *of_data]))

    @property
    def names(self) -> Sequence[str]:
        """What each sample is called in the data."""
        return self._whole.names

    def shown(self, indices: Sequence[int]) -> dict[str, dict[int, str]]:
        """These samples for people: `pictures` (PNG, base64) or `texts` of a report, by index."""
        return self.task.shown(self._whole, indices)

    def slices(self) -> dict[str, NDArray[np.bool_]]:
        """Parts of the data that may fare worse than the rest: name -> mask [S]."""
        return self.task.slices(self._whole)

    def inputs(self, side: Side, indices: NDArray[np.int64]) -> Iterator[dict[str, NDArray[Any]]]:
        """The task's inputs for these samples as the side prepares them, in batches that it takes."""
        return self.prepared(side).batches(side.batch or min(BLOCK_BATCH, side.most), indices.tolist())

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
        rows = compare_blocks(original, model, batches)
        return rows, None if rows else "The blocks were not compared: some give NaN or infinite values."


def questions_of(reference: str, candidate: str, data: str | None, part: AnyPart) -> Questions:
    """Both sides, opened, those that are models, and the data. Raises InputError or EnvironmentLacks."""
    if data is None:
        model = next(spec for spec in (reference, candidate) if not is_predictions(spec))
        kinds = "images, recordings or texts: a folder, a file or zoo:NAME"
        raise InputError(f"{model} has to be run on data: give --data ({kinds})")
    opened = [None if is_predictions(spec) else open_side(spec) for spec in (reference, candidate)]
    models = [side for side in opened if side is not None]
    task = next((side.task for side in models if side.task is not None), None) or _by_inputs(models)
    whole = [_of_task(_completed(side, models), task) for side in models]
    for side in whole:
        if fault := task.lacks(side.preprocessing, side.files):
            alike = ", and the other side is no better" if len(models) > 1 else ""
            raise InputError(f"{models[0].name} {fault}{alike}; put {task.beside} beside it")
    sides = iter(whole)
    given = [None if side is None else next(sides) for side in opened]
    choice = DataChoice(data, None, False, 0)

    def prepare(side: Side) -> Prepared:
        return task.open(choice, part, side.labels, side.preprocessing or {}, side.files)

    return Questions(task, given[0], given[1], prepare)


def _completed(side: Side, models: Sequence[Side]) -> Side:
    for other in models:
        side = side.completed(other)
    return side


def _of_task(side: Side, task: Task) -> Side:
    """The side, known to be for the task. Raises InputError for one that is for another."""
    if side.task is not None and side.task.name != task.name:
        raise InputError(
            f"{side.name} is for the task {side.task.name}, the other side for {task.name}; compare models of one task"
        )
    return side


def _by_inputs(models: Sequence[Side]) -> Task:
    """The task of ONNX files of which nothing else is known. Raises InputError where their inputs do not say."""
    found = tasks.of_graph(models[0].inputs)
    if len(found) == 1:
        return found[0]
    names = " and ".join(dict.fromkeys(side.name for side in models))
    need = found[0].beside if found else "the config.json and the processor or tokenizer files of its model"
    raise InputError(
        f"nothing says what {names} is for and how its inputs are prepared; put {need} beside the file, or compare it "
        "with a model folder or a bundle"
    )


def spread(size: int, most: int) -> NDArray[np.int64]:
    """At most `most` indices, evenly over `size` samples."""
    return np.unique(np.linspace(0, size - 1, most).astype(np.int64))
