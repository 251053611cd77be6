"""baseline-int8: the original in int8 at its best, so that what edgepress changes is held against more than fp32."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from compress.pipeline import Stage, StageContext
from compress.stages.artifacts import CalibrationSet, OnnxModel, ShippedModels, SourceModel
from compress.stages.export import LIBRARIES, PlainOptions, export_file, in_export_form
from compress.stages.precision import FileChoice, batches_of, finish, for_cpu, shipped_file
from compress.stages.samples import calibration_batches, healing
from compress.tasks.task import DataChoice
from runtime.bundles.manifest import ONNXRUNTIME

if TYPE_CHECKING:
    from compress.stages.job import Job


class Options(PlainOptions):
    """Which samples the quantizer sees."""

    data: DataChoice


def stage(job: Job, exported: str | None) -> Stage:
    """`exported`: the stage that exports the original in these forms, where nothing is done to it."""
    graph = {} if exported is None else {"exported": exported}
    return Stage(
        name="baseline-int8",
        does="quantizes the original to int8, dynamic and static, in the same exact forms and by the same quantizer",
        why="the rewritten model has to beat what quantization alone gives",
        inputs={"original": "source", "calibration": "calibrate", **graph},
        produces=ShippedModels,
        run=quantize_original,
        options=Options(opset=job.opset, data=job.data),
        sources=job.healing,
        libraries=(*LIBRARIES, *job.task.libraries),
    )


def quantize_original(
    context: StageContext[Options],
    original: SourceModel,
    calibration: CalibrationSet,
    exported: OnnxModel | None = None,
) -> None:
    """Nothing is left to gain by a graph form or a quantizer that the original does not get as well."""
    from compress.rewrites import Calibration
    from export.precision.int8_static import to_int8_static

    data, fit = healing(context.options.data, original), calibration.indices("fit")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "model.onnx") if exported is None else exported.file
        if exported is None:
            teacher = original.load()
            model, _ = in_export_form(teacher, Calibration(teacher, calibration_batches(data, fit), context.log))
            export_file(context, original.task, model, source)
        note = for_cpu(source, context.folder / "dynamic.onnx", "int8", None)
        context.progress(1, 2, "dynamic.onnx")
        to_int8_static(source, context.folder / "static.onnx", batches_of(data, fit, source)())
    finish(
        context,
        [
            shipped_file(FileChoice("dynamic.onnx", ONNXRUNTIME, "int8", "fused"), note),
            shipped_file(FileChoice("static.onnx", ONNXRUNTIME, "int8", "plain"), "int8 static"),
        ],
    )
