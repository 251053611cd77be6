"""data: the samples held to the model and the gate, before anything that takes long."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from compress.pipeline import Stage, StageContext
from compress.spec import Spec
from compress.stages.artifacts import MatchedData, SourceModel
from compress.stages.samples import evaluation, healing
from compress.tasks.task import DataChoice
from runtime.files import write_atomic

if TYPE_CHECKING:
    from compress.stages.job import Job


class Options(Spec):
    """`min_samples` of the gate."""

    data: DataChoice
    min_samples: int


def stage(job: Job) -> Stage:
    return Stage(
        name="data",
        does="holds the samples to the model and the gate",
        why="classes that are not the model's, or too few samples, are reported now and not after the work",
        inputs={"original": "source"},
        produces=MatchedData,
        run=match_data,
        options=Options(data=job.data, min_samples=job.recipe.gate.min_samples),
        sources={**job.evaluation, **job.healing},
        libraries=job.task.libraries,
    )


def match_data(context: StageContext[Options], original: SourceModel) -> None:
    """Raises InputError for classes that are not the model's or samples
    that the task cannot judge. Fewer than the gate needs are reported: it will fail, but sizes and times may be
    wanted."""
    judged, learned = evaluation(context.options.data, original), healing(context.options.data, original)
    least = context.options.min_samples
    if len(judged) < least:
        context.warn(f"the gate will fail: {len(judged)} samples to evaluate on, gate.min_samples is {least}")
    counts = {"evaluation": len(judged), "healing": len(learned)}
    write_atomic(context.folder / "data.json", json.dumps(counts).encode())
    context.log(f"{len(judged):,} samples to evaluate on, {len(learned):,} to calibrate and heal on")
