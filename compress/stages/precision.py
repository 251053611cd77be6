"""precision: the files that ship, in the number format of the recipe or the target."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.pipeline import StageContext
from compress.stages.artifacts import CalibrationSet, OnnxModel, SourceModel
from compress.stages.samples import healing
from runtime.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np

    Batches = Callable[[], Iterator[dict[str, np.ndarray]]]

#: A static quantizer sees batches of this size.
CALIBRATION_BATCH = 32


def write_shipped(context: StageContext, original: SourceModel, calibration: CalibrationSet, model: OnnxModel) -> None:
    """Options: `mode`, `engines` (precisions of the files for TensorRT, `mode` first; none where the target has no
    TensorRT; ONNX Runtime is its fallback), `data`."""
    mode = context.options["mode"]
    engines = context.options["engines"]
    batches = _batches(context, original, calibration)
    entries = []
    for index, precision in enumerate(engines):
        name = "model.onnx" if precision == mode else f"model.{precision}.onnx"
        _for_tensorrt(model.file, context.folder / name, precision, batches)
        entries.append(_entry(name, "tensorrt", precision, "standard operators, for the engine"))
        context.progress(index + 1, len(engines) + 1, name)
    name = "model.cpu.onnx" if entries else "model.onnx"
    note = _for_cpu(model.file, context.folder / name, mode)
    entries.append(_entry(name, "onnxruntime", "fp32" if mode == "fp16" else mode, note))
    _finish(context, entries)


def quantize_original(
    context: StageContext, original: SourceModel, calibration: CalibrationSet, model: OnnxModel
) -> None:
    """The original in int8, both ways, at its best for a CPU. Options: `data`."""
    note = _for_cpu(model.file, context.folder / "dynamic.onnx", "int8")
    context.progress(1, 2, "dynamic.onnx")
    _static_for_cpu(model.file, context.folder / "static.onnx", _batches(context, original, calibration))
    _finish(
        context,
        [
            _entry("dynamic.onnx", "onnxruntime", "int8", note),
            _entry("static.onnx", "onnxruntime", "int8", "int8 static"),
        ],
    )


def _batches(context: StageContext, original: SourceModel, calibration: CalibrationSet) -> Batches:
    data, indices = healing(context, original), calibration.indices("fit")
    return lambda: data.calibration(CALIBRATION_BATCH, indices)


def _for_tensorrt(source: Path, path: Path, mode: str, batches: Batches) -> None:
    """Standard operators only; int8 as symmetric Q/DQ, which is the form that TensorRT takes."""
    from export.precision.fp16 import to_fp16
    from export.precision.fp32 import to_fp32
    from export.precision.int8_static import to_int8_static

    if mode == "int8":
        to_int8_static(source, path, batches())
    elif mode == "fp16":
        to_fp16(source, path)
    else:
        to_fp32(source, path)


def _for_cpu(source: Path, path: Path, mode: str) -> str:
    """Fused for ONNX Runtime; int8 quantizes activations as they come. fp16 has no kernels there, so it stays fp32."""
    from export.cpu_graph import optimise_for_cpu
    from export.precision.int8_dynamic import to_int8_dynamic

    if mode != "int8":
        optimise_for_cpu(source, path)
        return "fused for ONNX Runtime on a CPU"
    with tempfile.TemporaryDirectory() as folder:
        fused = Path(folder, "fused.onnx")
        optimise_for_cpu(source, fused)
        to_int8_dynamic(fused, path)
    return "int8 dynamic"


def _static_for_cpu(source: Path, path: Path, batches: Batches) -> None:
    """ONNX Runtime's own static quantization at the settings that it recommends for a CPU: U8S8, per channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    from export.quiet import quiet

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = batches()

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    with quiet():
        quantize_static(
            str(source),
            str(path),
            Reader(),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def _entry(path: str, runtime: str, precision: str, note: str) -> dict[str, Any]:
    return {"path": path, "runtime": runtime, "precision": precision, "note": note}


def _finish(context: StageContext, entries: list[dict[str, Any]]) -> None:
    for entry in entries:
        entry["bytes"] = (context.folder / entry["path"]).stat().st_size
        context.log(f"{entry['path']}: {entry['bytes'] / 1e6:.2f} MB, {entry['note']}")
    write_atomic(context.folder / "models.json", (json.dumps(entries, indent=1) + "\n").encode())
    context.progress(1, 1)
