"""rewrite: one method of the recipe applied to the model, and how far the model then is from the original."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compress.pipeline import Stage, StageContext
from compress.spec import Spec
from compress.stages.artifacts import CalibrationSet, ModelArtifact, SourceModel
from compress.stages.notes import drift_from, sizes, write_notes
from compress.stages.samples import calibration_batches, healing, tensor_batches
from compress.tasks.task import DataChoice
from targets.errors import InputError

if TYPE_CHECKING:
    from compress.stages.job import Job


class Options(Spec):
    """`rewrite`: the recipe's table."""

    data: DataChoice
    rewrite: dict[str, Any]


def stages(job: Job) -> list[Stage]:
    """One for each rewrite of the recipe, each of what the one before made. Raises InputError for an unknown one."""
    from compress.rewrites import options_in, parse_options

    found: list[Stage] = []
    before = "source"
    for index, table in enumerate(job.recipe.rewrite, start=1):
        method, _ = parse_options(table)
        settings = ", ".join(f"{key} {value}" for key, value in options_in(table).items())
        found.append(
            Stage(
                name=f"rewrite-{index}-{method.name}",
                does=f"{method.name}{f' ({settings})' if settings else ''}: {method.summary}",
                why="exact, which is asserted" if method.exact else "smaller or faster; healing wins accuracy back",
                inputs={"original": "source", "calibration": "calibrate", "model": before},
                produces=ModelArtifact,
                run=apply_rewrite,
                options=Options(data=job.data, rewrite=table),
                sources=job.healing,
                libraries=("torch", *job.task.libraries),
            )
        )
        before = found[-1].name
    return found


def apply_rewrite(
    context: StageContext[Options], original: SourceModel, calibration: CalibrationSet, model: ModelArtifact
) -> None:
    """An optional one that is refused changes nothing and says so."""
    import numpy as np

    from compress.model import save
    from compress.rewrites import Calibration, parse_options, run_rewrite

    teacher, before = original.load(), model.load()
    dataset = healing(context.options.data, original)
    remarks: list[str] = []

    def note(text: str) -> None:
        remarks.append(text)
        context.log(text)

    batches = calibration_batches(dataset, calibration.indices("fit"))
    every = calibration_batches(dataset, np.setdiff1d(np.arange(len(dataset)), calibration.indices("held_out")))
    method, options = parse_options(context.options.rewrite)
    context.progress(0, 2, method.summary)
    try:
        stack = context.options.rewrite.get("stack")
        after = run_rewrite(method, options, before, Calibration(teacher, batches, note, every), stack)
    except InputError as refusal:
        if not context.options.rewrite.get("optional", False):
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
