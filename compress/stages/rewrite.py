"""rewrite: one method of the recipe applied to the model, and how far the model then is from the original."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from compress.pipeline import StageContext
from compress.stages.artifacts import NOTES, CalibrationSet, ModelArtifact, SourceModel
from compress.stages.samples import calibration_batches, healing, tensor_batches
from runtime.files import write_atomic
from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from compress.model import Transformer
    from compress.tasks.task import Task


def apply_rewrite(
    context: StageContext, original: SourceModel, calibration: CalibrationSet, model: ModelArtifact
) -> None:
    """Options: `rewrite` (the recipe's table), `data`. An optional one that is refused changes nothing and says so."""
    from compress.model import save
    from compress.rewrites import Calibration, parse_options, run_rewrite

    teacher, before = original.load(), model.load()
    dataset = healing(context, original)
    remarks: list[str] = []

    def note(text: str) -> None:
        remarks.append(text)
        context.log(text)

    batches = calibration_batches(dataset, calibration.indices("fit"))
    method, options = parse_options(context.options["rewrite"])
    context.progress(0, 2, method.summary)
    try:
        after = run_rewrite(method, options, before, Calibration(teacher, batches, note))
    except InputError as refusal:
        if not context.options["rewrite"].get("optional", False):
            raise
        note(f"left out: {refusal}")
        after = before
    context.progress(1, 2, "measuring drift")
    held_out = tensor_batches(dataset, calibration.indices("held_out"))
    save(after, context.folder)
    write_notes(
        context, {"remarks": remarks, **drift_from(original.task, teacher, after, held_out), **sizes(before, after)}
    )
    context.progress(2, 2)


def write_notes(context: StageContext, notes: dict[str, Any]) -> None:
    write_atomic(context.folder / NOTES, (json.dumps(notes, indent=1) + "\n").encode())


def sizes(before: Transformer, after: Transformer) -> dict[str, int]:
    return {"parameters_before": before.num_parameters(), "parameters": after.num_parameters()}


def drift_from(
    task: Task, original: Transformer, model: Transformer, batches: Callable[[], Iterator[dict[str, Tensor]]]
) -> dict[str, Any]:
    """How alike the answers are on held-out samples, and how far they drifted by what healing minimises."""
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
