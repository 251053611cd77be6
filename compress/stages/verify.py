"""verify: how far each shipped file drifted from the original, judged by the gate. Fails closed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from compress.pipeline import Stage, StageContext
from compress.spec import Spec
from compress.stages.artifacts import (
    CHECKS,
    EXITS,
    VARIANTS,
    Answers,
    CalibrationSet,
    Comparison,
    OnnxModel,
    ShippedFile,
    ShippedModels,
    SourceModel,
)
from compress.stages.samples import evaluation
from compress.tables import GateTable
from compress.tasks.task import DataChoice
from runtime.files import write_atomic

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compress.judging.compare import Answered, Judged
    from compress.judging.side import Side
    from compress.stages.job import Job
    from compress.tasks.task import Prepared
    from compress.verification.drift import Drift
    from compress.verification.gate import Gate
    from compress.verification.samples import Samples


class Options(Spec):
    """`gate`: the recipe's table. `metric`, `bound`: the task's. `exit`: the probability of an early exit, or None."""

    data: DataChoice
    gate: GateTable
    metric: str
    bound: Literal["max_drop", "max_relative_drop"]
    exit: float | None


def stage(job: Job) -> Stage:
    gate, task = job.recipe.gate, job.task
    return Stage(
        name="verify",
        does=f"gate: at most {gate.max_drop:g} {task.limit}, at {100 * gate.confidence:g} % confidence",
        why="fails closed: too few samples, NaN or an error never pass",
        inputs={
            "original": "source",
            "original_onnx": "baseline-export",
            "reference": "baseline",
            "candidates": "predict",
            "models": "precision",
            "calibration": "calibrate",
        },
        produces=Comparison,
        run=verify,
        options=Options(data=job.data, gate=gate, metric=task.metric, bound=task.bound, exit=job.recipe.loops.exit),
        sources=job.evaluation,
        libraries=("numpy", "scipy", "pydantic", "onnxruntime", *task.libraries),
    )


def verify(
    context: StageContext[Options],
    original: SourceModel,
    original_onnx: OnnxModel,
    reference: Answers,
    candidates: Answers,
    models: ShippedModels,
    calibration: CalibrationSet,
) -> None:
    """The comparison that `compress.verify` makes, of each file. A failed gate is a result, not an error."""
    from compress.data.seen import read

    data, seen = evaluation(context.options.data, original), read(calibration.seen)
    judging = _Judging(context, original, original_onnx.file, reference.load(), data, seen)
    for file in models.entries():
        found = judging.judge(context.folder, models.path, file, candidates.load(file.path))
        if found.drift.copies:
            whole = found.drift.samples + found.drift.copies
            context.log(f"{found.drift.copies:,} of {whole:,} samples are copies of others: each content counts once")
        for number, check in enumerate(found.checks):
            name = check.name if file.path in check.name else f"{check.name}, {file.path}"
            (context.folder / CHECKS).mkdir(exist_ok=True)
            content = check.model_copy(update={"name": name}).model_dump_json().encode()
            write_atomic(context.folder / CHECKS / f"{file.path}.{number}.json", content)
            context.log(f"{name}: {check.status}: {check.message}")
    offered = []
    for file in models.variants():
        if judging.judge(context.folder / VARIANTS, models.path, file, candidates.load(file.path)):
            offered.append(file)
        else:
            context.log(f"{file.path} is not offered")
    probability, last = context.options.exit, models.entries()[-1]
    fewer = [file for file in offered if (file.loops or 0) < (last.loops or 0)]
    if probability is not None and fewer:
        early = early_exit([candidates.load(file.path) for file in (*fewer, last)], probability)
        judging.exit(context.folder / EXITS, f"exit at {probability:g}", early)


class _Judging:
    """The original and its answers, held against one file after the other."""

    def __init__(
        self,
        context: StageContext[Options],
        original: SourceModel,
        original_onnx: Path,
        wanted: Samples,
        data: Prepared,
        seen: NDArray[np.uint64],
    ) -> None:
        from compress.judging.questions import Questions

        self.context, self.original, self.wanted, self.seen = context, original, wanted, seen
        self.gate = _gate(context)
        self.questions = Questions(original.task, self._side("the original", original_onnx), None, lambda side: data)
        self.slices = original.task.slices(data)

    def judge(self, folder: Path, files: Path, file: ShippedFile, given: Samples) -> Judged:
        """Judge a file of the folder `files` by its answers, and write its drift down."""
        from compress.judging.compare import judge

        side = self._side(file.path, files / file.path, file.precision)
        self.questions.candidate = replace(side, seen=self.seen)
        answered = self._answered(given)
        found = judge(self.questions, answered, self.gate, self.slices)
        self._write(folder, file.path, found.drift, answered)
        return found

    def exit(self, folder: Path, name: str, given: Samples) -> None:
        """Judge what an early exit answers, which is not a file of its own."""
        answered = self._answered(given)
        self._write(folder, name, answered.drift(self.gate, self.slices), answered)

    def _answered(self, given: Samples) -> Answered:
        import numpy as np

        from compress.judging.compare import Answered

        return Answered(self.wanted, given, np.arange(len(self.wanted))).without_copies(self.questions)

    def _side(self, name: str, path: Path, precision: str | None = None) -> Side:
        from compress.judging.sides import onnx_side

        structure = self.original.structure()
        return replace(
            onnx_side(name, path, precision),
            task=self.original.task,
            labels=structure.labels,
            preprocessing=structure.preprocessing,
            files=self.original.files,
        )

    def _write(self, folder: Path, name: str, drift: Drift, answered: Answered) -> None:
        folder.mkdir(exist_ok=True)
        placed = drift if answered.indices is None else drift.at(answered.indices)
        write_atomic(folder / f"{name}.json", placed.to_json().encode())
        self.context.log(f"{name}: {drift.status}: {drift.gate.message}")


def _gate(context: StageContext[Options]) -> Gate:
    from compress.verification.gate import parse

    options = context.options
    check = {"metric": options.metric, options.bound: options.gate.max_drop}
    table = {"confidence": options.gate.confidence, "min_samples": options.gate.min_samples, "seed": context.seed}
    return parse({**table, "check": [check]})


def early_exit(answers: Sequence[Samples], probability: float) -> Samples:
    """What the device answers with `--exit`: the answers are of more and more loops, and each sample keeps the first
    whose likeliest class is at least so probable, or the last."""
    from compress.verification.kinds.classes import Predictions
    from runtime.exit import is_sure

    last = answers[-1]
    assert isinstance(last, Predictions)
    logits = last.logits.copy()
    for earlier in reversed(answers[:-1]):
        assert isinstance(earlier, Predictions)
        sure = is_sure(earlier.logits, probability)
        logits[sure] = earlier.logits[sure]
    return Predictions(logits, last.labels, last.names)
