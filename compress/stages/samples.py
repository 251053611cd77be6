"""The user's samples as the stages see them: opened, cut into parts, prepared for the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from compress.pipeline import StageContext
from compress.stages.artifacts import SourceModel
from compress.tasks.feeding import fitted

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from torch import Tensor

    from compress.tasks.task import DataChoice, Part, Prepared, Run

#: Inputs that go through a model at once, where nobody waits for a single answer.
BATCH = 128


def evaluation(choice: DataChoice, original: SourceModel) -> Prepared:
    """The samples that gates are judged on."""
    return _opened(choice, original, "evaluation")


def healing(choice: DataChoice, original: SourceModel) -> Prepared:
    """The samples to calibrate and heal on; none of them is evaluated on."""
    return _opened(choice, original, "healing")


def _opened(choice: DataChoice, original: SourceModel, part: Part) -> Prepared:
    structure = original.structure()
    return original.task.open(choice, part, structure.labels, structure.preprocessing, original.files)


def runner_of(file: Path) -> Run:
    """A model file on the CPU, fed with what it declares of the samples' inputs."""
    from runtime import ort

    graph = ort.load(file)
    return lambda inputs: graph.run(fitted(file.name, inputs, graph.inputs))


def tell_notes(context: StageContext[Any], data: Prepared) -> None:
    """Log what the user should know of the samples; by the stages that see each part first."""
    for note in data.notes:
        context.log(note)


def tensors(inputs: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """The same inputs for torch."""
    import torch

    return {name: torch.from_numpy(array) for name, array in inputs.items()}


def calibration_batches(data: Prepared, indices: np.ndarray) -> Callable[[], Iterator[dict[str, Tensor]]]:
    """A function that starts over the model's inputs for these samples, without padding."""
    return lambda: map(tensors, data.calibration(BATCH, indices))


def tensor_batches(data: Prepared, indices: np.ndarray) -> Callable[[], Iterator[dict[str, Tensor]]]:
    """A function that starts over the model's inputs for these samples, in their order."""
    return lambda: map(tensors, data.batches(BATCH, indices))
