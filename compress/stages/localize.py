"""localize: what each step from the original to the files that ship cost, and which block of the model costs most."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

from compress.pipeline import Stage, StageContext
from compress.spec import Spec
from compress.stages.artifacts import FORMS, Answers, Localization, ModelArtifact, OnnxModel, ShippedModels, SourceModel
from compress.stages.samples import evaluation, runner_of, tensor_batches, tensors
from compress.tasks.task import DataChoice
from runtime.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from compress.model import Transformer
    from compress.stages.job import Job
    from compress.tasks.task import Prepared, Run
    from compress.verification.samples import Samples

#: Evaluation samples on which every step is measured; the gate's verdict rests on all of them.
SAMPLES = 512


class Options(Spec):
    """`changes`: the stages that changed the model, in order. `metric`, `bound`: the task's. `limit`: the gate's."""

    data: DataChoice
    changes: tuple[str, ...]
    metric: str
    bound: Literal["max_drop", "max_relative_drop"]
    limit: float


def stage(job: Job, model: str, changes: list[str]) -> Stage:
    """`model`: the stage that made what was exported."""
    task = job.task
    return Stage(
        name="localize",
        does="measures every step from the original to what ships, and every block of the model",
        why="if accuracy is lost, you see by which step and in which block",
        inputs={
            "original": "source",
            "reference": "baseline",
            "exported": "export",
            "models": "precision",
            "candidates": "predict",
            "model": model,
            **{f"change_{index}": name for index, name in enumerate(changes)},
        },
        produces=Localization,
        run=localize,
        options=Options(
            data=job.data,
            changes=tuple(changes),
            metric=task.metric,
            bound=task.bound,
            limit=job.recipe.gate.max_drop,
        ),
        sources=job.evaluation,
        libraries=("torch", "onnxruntime", *task.libraries),
    )


def localize(
    context: StageContext[Options],
    original: SourceModel,
    reference: Answers,
    exported: OnnxModel,
    models: ShippedModels,
    candidates: Answers,
    model: ModelArtifact,
    **changes: ModelArtifact,
) -> None:
    """Measures each step on the same samples."""
    from compress.judging.questions import spread
    from compress.verification.localize import step_rows

    task, options = original.task, context.options
    whole = evaluation(options.data, original)
    chosen = spread(len(whole), SAMPLES)
    data = whole.subset(chosen)
    runs = {name: _runner(changes[f"change_{k}"].load()) for k, name in enumerate(options.changes)}
    runs["export"] = runner_of(exported.file)
    steps: dict[str, Samples] = {}
    for index, (name, run) in enumerate(runs.items()):
        context.progress(index, len(runs), name)
        steps[name] = task.answers(run, data, lambda done, **numbers: None)
    steps |= {file.path: candidates.load(file.path).take(chosen) for file in models.entries()}
    bound = options.metric, options.bound, options.limit
    rows = step_rows(reference.load().take(chosen), steps, *bound, _notes(options.changes, changes, exported, models))
    document = {
        "samples": len(chosen),
        "stages": [row.model_dump(mode="json") for row in rows],
        "blocks": _blocks(original.load(), model.load(), data),
    }
    write_atomic(context.folder / "localization.json", (json.dumps(document, indent=1) + "\n").encode())
    context.progress(len(runs), len(runs))


def _runner(model: Transformer) -> Run:
    """The model in torch, called as its exported graph would be."""
    import torch

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            return {name: one.numpy() for name, one in model.outputs(tensors(dict(inputs))).items()}

    return run


def _notes(
    names: Sequence[str], changes: Mapping[str, ModelArtifact], exported: OnnxModel, models: ShippedModels
) -> dict[str, str]:
    """What each step has to say of itself."""
    found = {file.path: f"{file.precision}, {file.runtime}" for file in models.entries()}
    said = exported.notes()
    found["export"] = ", ".join([*said[FORMS], said[exported.file.name]])
    for index, name in enumerate(names):
        notes = changes[f"change_{index}"].notes()
        remarks = notes.get("remarks", [])[-1:]
        found[name] = ". ".join([f"{notes['parameters']:,} parameters", *remarks])
    return found


def _blocks(original: Transformer, model: Transformer, data: Prepared) -> list[dict[str, object]]:
    """The model's blocks held against the original's; none where they do not stand for its layers."""
    import numpy as np

    from compress.judging.blocks import comparable, compare_blocks
    from compress.judging.questions import BLOCK_SAMPLES

    if comparable(original.structure, model.structure):
        return []
    batches = tensor_batches(data, np.arange(min(BLOCK_SAMPLES, len(data))))
    return [row.model_dump(mode="json") for row in compare_blocks(original, model, batches())]
