"""What stages that change a model find out of it, and how they write it down."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from compress.pipeline import StageContext
from compress.stages.artifacts import NOTES
from runtime.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from compress.model import Transformer
    from compress.tasks.task import Task

_DIGITS = 7
#: Libraries whose versions the numbers of a run depend on.
LIBRARIES = ("torch", "onnx", "onnxruntime", "numpy")


def write_notes(context: StageContext[Any], notes: dict[str, Any]) -> None:
    write_atomic(context.folder / NOTES, (json.dumps(notes, indent=1) + "\n").encode())


def sizes(before: Transformer, after: Transformer) -> dict[str, int]:
    return {"parameters_before": before.num_parameters(), "parameters": after.num_parameters()}


def sample_drifts(
    task: Task,
    original: Callable[[dict[str, Tensor]], Tensor],
    model: Callable[[dict[str, Tensor]], Tensor],
    batches: Callable[[], Iterator[dict[str, Tensor]]],
) -> tuple[float, ...]:
    """How far each sample's answer drifted, by what healing minimizes, to as many digits as machines agree on."""
    import torch

    found: list[float] = []
    with torch.no_grad():
        for inputs in batches():
            wanted, given = original(inputs), model(inputs)
            for row in range(len(wanted)):
                one = {name: tensor[row : row + 1] for name, tensor in inputs.items()}
                drift = task.objective.drift(given[row : row + 1], wanted[row : row + 1], one)
                found.append(round(float(drift), _DIGITS))
    return tuple(found)


def drift_from(
    task: Task,
    original: Transformer,
    model: Callable[[dict[str, Tensor]], Tensor],
    batches: Callable[[], Iterator[dict[str, Tensor]]],
) -> dict[str, Any]:
    """How alike the answers are on held-out samples, and how far they drifted by what healing minimizes."""
    import torch

    agreed, drift, count = 0.0, 0.0, 0
    with torch.no_grad():
        for inputs in batches():
            wanted, given = original(inputs), model(inputs)
            agreed += float(task.agreement(wanted, given, inputs).sum())
            drift += float(task.objective.drift(given, wanted, inputs)) * len(wanted)
            count += len(wanted)
    text = f"{task.agreement_text(agreed / count, count)}, {task.objective.drift_name} {drift / count:.4f}"
    return {"agreement": agreed / count, "drift": drift / count, "held_out": count, "text": text}
