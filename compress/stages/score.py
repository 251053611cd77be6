"""score: how alike the files that ship answer to the original, on calibration samples that nothing was fitted on.

For whoever has to choose between recipes: evaluation samples are for the gate alone. It runs only when a run is asked
to go until it.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from compress.pipeline import Stage, StageContext
from compress.spec import Spec
from compress.stages.artifacts import CalibrationSet, FileScore, Scores, ShippedModels, SourceModel
from compress.stages.notes import drift_from, sample_drifts
from compress.stages.samples import healing, runner_of, tensor_batches
from compress.tasks.task import DataChoice
from runtime.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from compress.stages.job import Job


class Options(Spec):
    """Which samples."""

    data: DataChoice


def stage(job: Job) -> Stage:
    return Stage(
        name="score",
        does="holds the files that ship to the original on held-out calibration samples",
        why="recipes are chosen by it, so that evaluation samples judge the chosen one alone",
        inputs={"original": "source", "calibration": "calibrate", "models": "precision"},
        produces=Scores,
        run=score,
        options=Options(data=job.data),
        sources=job.healing,
        libraries=("torch", "onnxruntime", *job.task.libraries),
        on_demand=True,
    )


def score(
    context: StageContext[Options], original: SourceModel, calibration: CalibrationSet, models: ShippedModels
) -> None:
    """Of every file: the mean agreement with the original's answers, how far they drifted by what healing minimizes,
    and its bytes."""
    import torch

    task, teacher, files = original.task, original.load(), models.every()
    batches = tensor_batches(healing(context.options.data, original), calibration.indices("held_out"))
    scores = []
    for index, file in enumerate(files):
        context.progress(index, len(files), file.path)
        run = runner_of(models.path / file.path)

        def answer(inputs: Mapping[str, Tensor]) -> Tensor:
            given = run({name: tensor.numpy() for name, tensor in inputs.items()})  # noqa: B023 - used in this turn alone
            return torch.from_numpy(task.answer(given))

        found = drift_from(task, teacher, answer, batches)
        drifts = sample_drifts(task, teacher, answer, batches)
        scores.append(FileScore(file.path, found["agreement"], found["drift"], found["held_out"], file.bytes, drifts))
        context.log(f"{file.path}: {found['text']}")
    rows = json.dumps([asdict(one) for one in scores], indent=1)
    write_atomic(context.folder / "scores.json", f"{rows}\n".encode())
    context.progress(len(files), len(files))
