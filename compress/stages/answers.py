"""predict: every model file answers the evaluation samples through ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compress.pipeline import Stage, StageContext
from compress.spec import Spec
from compress.stages.artifacts import Answers, OnnxModel, ShippedModels, SourceModel
from compress.stages.samples import evaluation, runner_of, tell_notes
from compress.tasks.task import DataChoice

if TYPE_CHECKING:
    from compress.stages.job import Job
    from compress.tasks.task import Prepared, Tell
    from compress.verification.samples import Samples


class Options(Spec):
    """Which samples."""

    data: DataChoice


class OriginalOptions(Options):
    """`confidence` of the gate."""

    confidence: float


def original_stage(job: Job) -> Stage:
    return Stage(
        name="baseline",
        does="runs the original on every evaluation sample",
        why="drift is measured sample by sample against these answers",
        inputs={"original": "source", "model": "baseline-export"},
        produces=Answers,
        run=answer_original,
        options=OriginalOptions(data=job.data, confidence=job.recipe.gate.confidence),
        sources=job.evaluation,
        libraries=("onnxruntime", *job.task.libraries),
    )


def stage(job: Job) -> Stage:
    return _shipped_stage(
        job,
        name="predict",
        does="asks every file that ships about every evaluation sample",
        why="what is gated are the files that ship, asked as a device asks them",
        models="precision",
    )


def int8_stage(job: Job) -> Stage:
    return _shipped_stage(
        job,
        name="predict-int8",
        does="runs the original's int8 files on every evaluation sample",
        why="so that the comparison shows what quantization alone costs",
        models="baseline-int8",
    )


def _shipped_stage(job: Job, name: str, does: str, why: str, models: str) -> Stage:
    """Asks the files of the stage `models`."""
    return Stage(
        name=name,
        does=does,
        why=why,
        inputs={"original": "source", "models": models},
        produces=Answers,
        run=answer_shipped,
        options=Options(data=job.data),
        sources=job.evaluation,
        libraries=("onnxruntime", *job.task.libraries),
    )


def answer_original(context: StageContext[OriginalOptions], original: SourceModel, model: OnnxModel) -> None:
    """The original's answers. That they have nothing to do with the data's
    labels is reported before anything is healed: the gate will fail."""
    data = evaluation(context.options.data, original)
    tell_notes(context, data)
    answers = _answer_all(context, original, data, {model.file.name: model.file})[0]
    fault = answers.knows_nothing(context.options.confidence)
    if fault is not None:
        context.warn(f"the gate will fail: {fault}")


def answer_shipped(context: StageContext[Options], original: SourceModel, models: ShippedModels) -> None:
    """The answers of each file."""
    files = {file.path: models.path / file.path for file in models.every()}
    _answer_all(context, original, evaluation(context.options.data, original), files)


def _answer_all(
    context: StageContext[Options], original: SourceModel, data: Prepared, files: dict[str, Path]
) -> list[Samples]:
    from export.neighbours import ASKED_ALONE, depends_on_batch

    task = original.task
    every = []
    for index, (name, path) in enumerate(files.items()):
        tell = _teller(context, name, index * len(data), len(files) * len(data))
        alone = depends_on_batch(path)
        if alone:
            context.log(f"{name}: {ASKED_ALONE}")
        answers = task.answers(runner_of(path), data, tell, 1 if alone else None)
        answers.save(context.folder / f"{name}.npz")
        context.log(f"{name}: {task.headline(answers)}")
        every.append(answers)
    return every


def _teller(context: StageContext[Options], note: str, before: int, total: int) -> Tell:
    def tell(done: int, **numbers: float) -> None:
        context.progress(before + done, total, note, **numbers)

    return tell
