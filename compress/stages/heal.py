"""heal: distil the original into the rewritten model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compress.heal.options import HealOptions
from compress.pipeline import Stage, StageContext
from compress.spec import Spec
from compress.stages.artifacts import CalibrationSet, ModelArtifact, SourceModel
from compress.stages.notes import drift_from, sizes, write_notes
from compress.stages.samples import healing, tensor_batches
from compress.tasks.task import DataChoice, Prepared, Task

if TYPE_CHECKING:
    import numpy as np

    from compress.heal.heal import Healed
    from compress.model import Transformer
    from compress.stages.job import Job


class Options(Spec):
    """`heal`: the recipe's table."""

    data: DataChoice
    heal: HealOptions


def stage(job: Job, model: str) -> Stage:
    """Heals what the stage `model` made."""
    options = job.recipe.heal
    length = options.attention_steps + options.transfer_steps + options.steps
    return Stage(
        name="heal",
        does=f"distils the original into the rewritten model, {length} steps of {options.batch_size} samples",
        why="the rewrites were fitted layer by layer; training end to end wins back what they lost together",
        inputs={"original": "source", "calibration": "calibrate", "model": model},
        produces=ModelArtifact,
        run=run_heal,
        options=Options(data=job.data, heal=options),
        sources=job.healing,
        libraries=("torch", "accelerate", *job.task.libraries),
    )


def run_heal(
    context: StageContext[Options], original: SourceModel, calibration: CalibrationSet, model: ModelArtifact
) -> None:
    """Goes on from its last checkpoint after a kill."""
    from compress.model import save

    teacher, student = original.load(), model.load()
    task, dataset = original.task, healing(context.options.data, original)
    held_out = calibration.indices("held_out")
    healed = distil(context, context.options.heal, student, teacher, task, dataset, held_out)
    save(healed.model, context.folder)
    measured = drift_from(task, teacher, healed.model, tensor_batches(dataset, held_out))
    context.log(
        f"drift ({task.objective.drift_name}) {healed.drift_before:.4f} -> {healed.drift_after:.4f} "
        f"after {healed.steps} steps"
    )
    write_notes(
        context,
        {
            "steps": healed.steps,
            "drift_before": healed.drift_before,
            "drift_after": healed.drift_after,
            **measured,
            **sizes(student, healed.model),
        },
    )


def distil(
    context: StageContext[Any],
    options: HealOptions,
    student: Transformer,
    teacher: Transformer,
    task: Task,
    dataset: Prepared,
    held_out: np.ndarray,
) -> Healed:
    """Heal on the samples that are not held out, on a GPU where there is one; goes on from what lies in the work
    folder."""
    import numpy as np
    import torch
    from accelerate import Accelerator

    from compress.heal import Feed, heal

    torch.manual_seed(context.seed)
    accelerator = Accelerator(mixed_precision="bf16" if torch.cuda.is_available() else "no")
    rest = np.setdiff1d(np.arange(len(dataset)), held_out)

    def feed(indices: np.ndarray) -> Feed:
        rank, world = accelerator.process_index, accelerator.num_processes
        return task.feed(dataset.subset(indices), context.seed, accelerator.device, rank, world)

    context.log(f"healing on {len(rest):,} samples, {accelerator.device.type}")
    return heal(
        student,
        teacher,
        feed(rest),
        feed(held_out),
        options,
        accelerator,
        context.work,
        context.progress,
        task.objective,
        context.log,
    )
