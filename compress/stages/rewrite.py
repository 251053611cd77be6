"""rewrite: one method of the recipe applied to the model, and how far the model then is from the original."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from compress.pipeline import StageContext
from compress.stages.artifacts import NOTES, CalibrationSet, ModelArtifact, SourceModel
from compress.stages.samples import healing, tensor_batches
from runtime.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from compress.model import Transformer


def apply_rewrite(
    context: StageContext, original: SourceModel, calibration: CalibrationSet, model: ModelArtifact
) -> None:
    """Options: `rewrite` (the recipe's table), `data`."""
    from compress.model import save
    from compress.rewrites import Calibration, parse_options, run_rewrite

    teacher, before = original.load(), model.load()
    dataset = healing(context.options["data"], teacher.structure)
    remarks: list[str] = []

    def note(text: str) -> None:
        remarks.append(text)
        context.log(text)

    batches = tensor_batches(dataset, teacher.structure, calibration.indices("fit"))
    method, options = parse_options(context.options["rewrite"])
    context.progress(0, 2, method.summary)
    after = run_rewrite(method, options, before, Calibration(teacher, batches, note))
    context.progress(1, 2, "measuring drift")
    held_out = tensor_batches(dataset, teacher.structure, calibration.indices("held_out"))
    save(after, context.folder)
    write_notes(context, {"remarks": remarks, **drift_from(teacher, after, held_out), **sizes(before, after)})
    context.progress(2, 2)


def write_notes(context: StageContext, notes: dict[str, Any]) -> None:
    write_atomic(context.folder / NOTES, (json.dumps(notes, indent=1) + "\n").encode())


def sizes(before: Transformer, after: Transformer) -> dict[str, int]:
    return {"parameters_before": before.num_parameters(), "parameters": after.num_parameters()}


def drift_from(
    original: Transformer, model: Transformer, batches: Callable[[], Iterator[dict[str, Tensor]]]
) -> dict[str, float]:
    """Agreement of the answers and mean KL(original || model) on held-out samples."""
    import torch

    from compress.heal.losses import kl_divergence

    agreed, divergence, count = 0, 0.0, 0
    with torch.no_grad():
        for inputs in batches():
            wanted, given = original(inputs), model(inputs)
            agreed += int((wanted.argmax(-1) == given.argmax(-1)).sum())
            divergence += float(kl_divergence(given, wanted, temperature=1.0)) * len(wanted)
            count += len(wanted)
    return {"agreement": agreed / count, "kl": divergence / count, "held_out": count}
