"""localize: what each step from the original to the files that ship cost, and which block of the model costs most."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from compress.pipeline import StageContext
from compress.stages.artifacts import Answers, ModelArtifact, OnnxModel, ShippedModels, SourceModel
from compress.stages.samples import evaluation, runner_of, tensor_batches, tensors
from runtime.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from compress.model import Transformer
    from compress.tasks.task import Prepared, Run
    from compress.verification.samples import Samples

#: Evaluation samples on which every step is measured; the gate's verdict rests on all of them.
SAMPLES = 512


def localize(
    context: StageContext,
    original: SourceModel,
    reference: Answers,
    exported: OnnxModel,
    models: ShippedModels,
    candidates: Answers,
    model: ModelArtifact,
    **changes: ModelArtifact,
) -> None:
    """Options: `changes` (stage names in order), `data`, `metric` and `bound` of the task, `limit` of the gate."""
    from compress.judging.questions import spread
    from compress.verification.localize import step_rows

    task, structure, options = original.task, original.structure(), context.options
    whole = evaluation(context, original)
    chosen = spread(len(whole), SAMPLES)
    data = whole.subset(chosen)
    runs = {name: _runner(changes[f"change_{k}"].load(), task.outputs[0]) for k, name in enumerate(options["changes"])}
    runs["export"] = runner_of(exported.file)
    steps: dict[str, Samples] = {}
    for index, (name, run) in enumerate(runs.items()):
        context.progress(index, len(runs), name)
        steps[name] = task.answers(run, data, structure, lambda done, **numbers: None)
    steps |= {entry["path"]: candidates.load(entry["path"]).take(chosen) for entry in models.entries()}
    bound = options["metric"], options["bound"], options["limit"]
    rows = step_rows(
        reference.load().take(chosen), steps, *bound, _notes(options["changes"], changes, exported, models)
    )
    document = {
        "samples": len(chosen),
        "stages": [row.model_dump(mode="json") for row in rows],
        "blocks": _blocks(original.load(), model.load(), data),
    }
    write_atomic(context.folder / "localization.json", (json.dumps(document, indent=1) + "\n").encode())
    context.progress(len(runs), len(runs))


def _runner(model: Transformer, output: str) -> Run:
    """The model in torch, called as its exported graph would be."""
    import torch

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            return {output: model(tensors(dict(inputs))).numpy()}

    return run


def _notes(
    names: list[str], changes: Mapping[str, ModelArtifact], exported: OnnxModel, models: ShippedModels
) -> dict[str, str]:
    """What each step has to say of itself."""
    found = {entry["path"]: f"{entry['precision']}, {entry['runtime']}" for entry in models.entries()}
    found["export"] = exported.notes()[exported.file.name]
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
