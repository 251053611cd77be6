"""export: the model as an ONNX graph, its numbers held against torch."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING

from compress.pipeline import Stage, StageContext
from compress.spec import Spec
from compress.stages.artifacts import FORMS, LOOPS, CalibrationSet, ModelArtifact, OnnxModel, SourceModel
from compress.stages.notes import write_notes
from compress.stages.samples import calibration_batches, healing
from compress.tasks.task import DataChoice
from runtime.files import write_atomic
from targets.errors import InputError

if TYPE_CHECKING:
    from compress.model import Transformer
    from compress.rewrites import Calibration
    from compress.stages.job import Job
    from compress.tasks.task import Task

#: From this share of the original's parameters on, a model counts as no smaller.
_ALIKE = 0.97
LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime")


class PlainOptions(Spec):
    """`opset` of the graph."""

    opset: int


class Options(PlainOptions):
    """`loops`: the other numbers of loops to export a looped model at."""

    data: DataChoice
    loops: tuple[int, ...]


def original_stage(job: Job) -> Stage:
    return Stage(
        name="baseline-export",
        does="exports the original, unchanged, to ONNX",
        why="size, speed and accuracy are compared with what you have today",
        inputs={"original": "source"},
        produces=OnnxModel,
        run=export_plain,
        options=PlainOptions(opset=job.opset),
        libraries=LIBRARIES,
    )


def stage(job: Job, model: str) -> Stage:
    """Exports what the stage `model` made."""
    from compress.rewrites import export_forms

    return Stage(
        name="export",
        does=f"applies {' and '.join(method.name for method in export_forms())} where they fit, exports the model to "
        f"ONNX, opset {job.opset}, and compares it with torch",
        why="the device runs a graph; its numbers must be the model's",
        inputs={"original": "source", "calibration": "calibrate", "model": model},
        produces=OnnxModel,
        run=export_model,
        options=Options(opset=job.opset, data=job.data, loops=tuple(sorted(set(job.recipe.loops.offer)))),
        sources=job.healing,
        libraries=LIBRARIES,
    )


def export_plain(context: StageContext[PlainOptions], original: SourceModel) -> None:
    """The original as it is, for comparison, in the graphs that a device would run."""
    write_notes(context, _export(context, original.task, original.load()))
    original.task.graphs(context.folder / "model.onnx")


def export_model(
    context: StageContext[Options], original: SourceModel, calibration: CalibrationSet, model: ModelArtifact
) -> None:
    """The model that ships, in the exact form that runs fastest, and at other numbers of loops."""
    from compress.model.forms.loops import at_loops, most_loops
    from compress.rewrites import Calibration

    teacher, changed = original.load(), model.load()
    batches = calibration_batches(healing(context.options.data, original), calibration.indices("fit"))
    shipped, applied = in_export_form(changed, Calibration(teacher, batches, context.log))
    before, after = teacher.num_parameters(), changed.num_parameters()
    if after > _ALIKE * before:
        context.log(
            f"the architecture is of the original's size, {after:,} of {before:,} parameters: "
            "what ships is smaller by its number format alone"
        )
    found = _export(context, original.task, shipped)
    whole = most_loops(shipped.structure)
    for loops in context.options.loops:
        other = at_loops(shipped, loops)
        if loops != whole:
            found |= _export(context, original.task, other, f"model.loops-{loops}.onnx")
    if context.options.loops:
        write_atomic(context.folder / LOOPS, json.dumps(whole).encode())
    write_notes(context, {**found, FORMS: applied})


def in_export_form(model: Transformer, calibration: Calibration) -> tuple[Transformer, list[str]]:
    """The same function in the form that runs fastest, and the rewrites that it took: those of `export_forms` that the
    model does not refuse."""
    from compress.rewrites import STACKS, export_forms, run_rewrite

    applied = []
    stacks = [None] if model.encoder is None else list(STACKS)
    for method, stack in itertools.product(export_forms(), stacks):
        try:
            model = run_rewrite(method, method.options(), model, calibration, stack)
        except InputError as refusal:  # such as a head that reads every token, which leaves nothing to trim
            calibration.note(f"left out: {refusal}")
            continue
        applied.append(method.name if stack is None else f"{method.name} ({stack})")
    return model, applied


def _export(
    context: StageContext[PlainOptions], task: Task, model: Transformer, name: str = "model.onnx"
) -> dict[str, str]:
    """Write one file; returns how far it is off, by its name."""
    return {name: export_file(context, task, model, context.folder / name)}


def export_file(context: StageContext[PlainOptions], task: Task, model: Transformer, path: Path) -> str:
    """Export to a place and compare with torch; how far the file is off."""
    from export.numerics import check_against
    from export.onnx_model import export_onnx

    graph = task.graph_inputs(model.structure, context.seed)
    context.progress(0, 2, "tracing the graph")
    module, outputs = task.module(model), task.graph_outputs(model.structure)
    info = export_onnx(module, graph.example, outputs, graph.dynamic, path, opset=context.options.opset)
    context.progress(1, 2, "comparing with torch")
    numerics = check_against(module, path, graph.cases)
    context.progress(2, 2)
    context.log(
        f"{path.name}: opset {info.opset}, IR {info.ir}, {info.bytes / 1e6:.2f} MB; on inputs of {graph.sizes} "
        f"{numerics.describe()}"
    )
    return numerics.describe()
