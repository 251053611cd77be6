"""predict: every model file answers the evaluation samples through ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compress.pipeline import StageContext
from compress.stages.artifacts import OnnxModel, ShippedModels, SourceModel
from compress.stages.samples import evaluation, runner_of, tell_notes

if TYPE_CHECKING:
    from compress.tasks.task import Tell
    from compress.verification.samples import Samples


def answer_original(context: StageContext, original: SourceModel, model: OnnxModel) -> None:
    """The original's answers. Options: `data`, `confidence` of the gate. That they have nothing to do with the data's
    labels is told before anything is healed: the gate will fail."""
    answers = _answer_all(context, original, {model.file.name: model.file})[0]
    fault = answers.knows_nothing(context.options["confidence"])
    if fault is not None:
        context.warn(f"the gate will fail: {fault}")


def answer_shipped(context: StageContext, original: SourceModel, models: ShippedModels) -> None:
    """The answers of each file that ships. Options: `data`."""
    _answer_all(context, original, {entry["path"]: models.path / entry["path"] for entry in models.every()})


def answer_dynamic(context: StageContext, original: SourceModel, models: ShippedModels) -> None:
    """The answers of the first file alone (the original's dynamic int8). Options: `data`."""
    first = models.entries()[0]["path"]
    _answer_all(context, original, {first: models.path / first})


def _answer_all(context: StageContext, original: SourceModel, files: dict[str, Path]) -> list[Samples]:
    task, structure = original.task, original.structure()
    data = evaluation(context, original)
    tell_notes(context, data)
    every = []
    for index, (name, path) in enumerate(files.items()):
        tell = _teller(context, name, index * len(data), len(files) * len(data))
        answers = task.answers(runner_of(path), data, structure, tell)
        answers.save(context.folder / f"{name}.npz")
        context.log(f"{name}: {task.headline(answers)}")
        every.append(answers)
    return every


def _teller(context: StageContext, note: str, before: int, total: int) -> Tell:
    def tell(done: int, **numbers: float) -> None:
        context.progress(before + done, total, note, **numbers)

    return tell
