"""precision: the files that ship, in the number format of the recipe or the target."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from compress.pipeline import Stage, StageContext
from compress.spec import Spec
from compress.stages.artifacts import CalibrationSet, OnnxModel, ShippedFile, ShippedModels, SourceModel
from compress.stages.samples import healing
from compress.tables import PrecisionMode, PrecisionTable
from compress.tasks.feeding import fitted
from compress.tasks.task import DataChoice
from runtime.bundles.manifest import ONNXRUNTIME, TENSORRT
from runtime.files import write_atomic
from runtime.states import every_word

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    import numpy as np

    from compress.stages.job import Job
    from compress.tasks.task import Prepared
    from export.precision.result import Precision
    from export.precision.sensitivity import Quantize

    Batches = Callable[[], Iterator[dict[str, np.ndarray]]]

#: A static quantizer sees batches of this size.
CALIBRATION_BATCH = 32
#: Samples that a quantized file is held against: enough to rank layers by.
HELD_OUT = 64


@dataclass(frozen=True)
class FileChoice:
    """A file that ships: its name, what it is made for, its number format, its form, and whether attention's products
    are quantized too."""

    path: str
    runtime: str
    precision: PrecisionMode
    form: Literal["plain", "fused"]
    attention: bool = False


class Options(Spec):
    """`mode`: what ships. `files`: see `choose_files`. `precision`: the recipe's table."""

    data: DataChoice
    mode: PrecisionMode
    files: tuple[FileChoice, ...]
    precision: PrecisionTable


def stage(job: Job) -> Stage:
    return Stage(
        name="precision",
        does=f"writes the files that ship, in {job.mode}",
        why="fewer bytes and faster products" if job.mode != "fp32" else "fp32 was asked for",
        inputs={"original": "source", "calibration": "calibrate", "model": "export"},
        produces=ShippedModels,
        run=write_shipped,
        options=Options(
            data=job.data,
            mode=job.mode,
            files=choose_files(job.forms, job.mode, job.engine_precisions, job.recipe.precision.attention),
            precision=job.recipe.precision.replace(mode=None),
        ),
        sources=job.healing,
        libraries=("onnx", "onnxruntime", *job.task.libraries),
    )


@dataclass(frozen=True)
class _Quantizing:
    """How int8 and int4 are made. `held_out` are inputs that nothing was fitted on."""

    context: StageContext[Any]
    options: PrecisionTable
    calibration: Batches
    held_out: Batches

    def within(self, source: Path, path: Path, quantize: Quantize) -> str:
        """Quantize all layers, or all but the worst; returns what to say of it."""
        from export.precision.sensitivity import quantize_within

        options = self.options
        bounded = quantize_within(
            source,
            path,
            quantize,
            list(self.held_out()),
            options.max_error,
            options.max_kept,
            lambda done, total: self.context.progress(done, total, f"{path.name}: cost of each layer"),
        )
        self.context.log(f"{path.name}: {bounded.describe()}")
        return f", {len(bounded.precision.kept)} layers in fp32" if bounded.precision.kept else ""


def choose_files(
    forms: Sequence[str],
    mode: PrecisionMode,
    engines: Sequence[PrecisionMode],
    attention: Literal["float", "int8", "both"] = "float",
) -> tuple[FileChoice, ...]:
    """One file for each form that backends want, in their order; the fused one is always among them, for every session
    falls back to it. Engines want a plain file for each of their precisions `engines`, of which `mode` is the first,
    and one more if `attention` is wanted both ways. The main plain file is model.onnx; where there is none, so is the
    fused one."""
    kinds = dict.fromkeys("fused" if form == "fused" else "plain" for form in (*forms, "fused"))
    has_engines = "engine" in forms
    plain: tuple[PrecisionMode, ...]
    plain = tuple(engines) if has_engines else ("fp32" if mode == "int4" else mode,)  # no standard operator has 4 bits
    fused = FileChoice(
        "model.cpu.onnx" if "plain" in kinds else "model.onnx", ONNXRUNTIME, "fp32" if mode == "fp16" else mode, "fused"
    )
    runtime = TENSORRT if has_engines else ONNXRUNTIME
    names = ["model.onnx", *(f"model.{precision}.onnx" for precision in plain[1:])]
    made = [
        FileChoice(name, runtime, precision, "plain", precision == "int8" and attention == "int8")
        for name, precision in zip(names, plain, strict=True)
    ]
    if attention == "both" and has_engines and "int8" in plain:
        made.append(FileChoice("model.int8-attention.onnx", runtime, "int8", "plain", attention=True))
    return tuple(file for kind in kinds for file in (made if kind == "plain" else [fused]))


def write_shipped(
    context: StageContext[Options], original: SourceModel, calibration: CalibrationSet, model: OnnxModel
) -> None:
    """The files that the targets' backends want. Other numbers of loops are for ONNX Runtime alone; their weights, and
    those of the whole model for ONNX Runtime, are stored once in a file apart."""
    from export.apart import store_apart

    mode, files = context.options.mode, context.options.files
    data = healing(context.options.data, original)
    how = _Quantizing(
        context,
        context.options.precision,
        batches_of(data, calibration.indices("fit"), model.file),
        batches_of(data, calibration.indices("held_out")[:HELD_OUT], model.file, HELD_OUT // 4),
    )
    shipped = []
    with tempfile.TemporaryDirectory() as folder:
        smooth = Path(folder, "model.onnx")
        smooth.write_bytes(model.file.read_bytes())
        strength = how.options.smooth
        if strength is not None and "int8" in (mode, *(file.precision for file in files)):
            _smooth(how, model.file, smooth, strength)
        for index, file in enumerate(files):
            path = context.folder / file.path
            source = smooth if file.precision == "int8" else model.file
            if file.form == "fused":
                note = for_cpu(source, path, mode, how) + _roll(how, path)
            else:
                made = _plain(source, path, file, how) + _roll(how, path, for_tensorrt=True)
                use = "for the engine" if file.runtime == TENSORRT else "for any runtime"
                note = f"standard operators, {use}{made}"
            shipped.append(shipped_file(file, note, model.loops))
            context.progress(index + 1, len(files), file.path)
    variants = model.at_loops()
    whole = next(file for file in files if file.form == "fused")
    for loops, variant in variants.items():
        note = for_cpu(variant, context.folder / variant.name, mode, how)
        shipped.append(shipped_file(replace(whole, path=variant.name), f"loops {loops}, {note}", loops))
    if variants:
        name = whole.path
        alike = [context.folder / one for one in (name, *(variant.name for variant in variants.values()))]
        saved = store_apart(alike, context.folder / f"{name}.data")
        context.log(f"{name}.data: the weights of {len(alike)} files; {saved / 1e6:.2f} MB are not stored again")
    graphs = [(file, original.task.graphs(context.folder / file.path)) for file in shipped]
    finish(context, [replace(file, path=at.name, graph=name) for file, one in graphs for name, at in one.items()])


def _roll(how: _Quantizing, path: Path, for_tensorrt: bool = False) -> str:
    """Put looped blocks into a Scan where the recipe asks for it and the runtime can; returns a remark."""
    from export.scan import roll_loops

    if how.options.loops == "unrolled":
        return ""
    source = path.read_bytes()
    rolled = roll_loops(path, path)
    if for_tensorrt and rolled.unfit_for_tensorrt:
        path.write_bytes(source)
        how.context.log(f"{path.name}: loops stay unrolled: {rolled.unfit_for_tensorrt}")
        return f", loops unrolled: {rolled.unfit_for_tensorrt}"
    how.context.log(f"{path.name}: {rolled.loops} loops in one Scan, {rolled.nodes_before} nodes become {rolled.nodes}")
    return f", {rolled.loops} loops in one Scan"


def _smooth(how: _Quantizing, source: Path, path: Path, strength: float) -> None:
    """Smooth the outliers, and hold the result against its source: the two compute the same."""
    from export.numerics import check_files
    from export.precision.smooth import smooth

    done = smooth(source, path, how.calibration(), strength)
    check_files(source, path, how.held_out())
    how.context.log(f"smoothed {len(done.in_norms)} values in their norms, {len(done.by_products)} by a product more")


def batches_of(data: Prepared, indices: np.ndarray, graph: Path, size: int = CALIBRATION_BATCH) -> Batches:
    from export.onnx_model import read_info

    info = read_info(graph)
    words = every_word(info.outputs)
    return lambda: (fitted(graph.name, {**batch, **words}, info.inputs) for batch in data.calibration(size, indices))


def _plain(source: Path, path: Path, file: FileChoice, how: _Quantizing) -> str:
    """Standard operators only; int8 as symmetric Q/DQ, which TensorRT and OpenVINO take. Returns a remark."""
    from export import graph
    from export.precision.attention import describe
    from export.precision.fp16 import to_fp16
    from export.precision.fp32 import to_fp32
    from export.precision.int8_static import activation_ranges, quantize_static

    if file.precision == "int8":
        attention = file.attention
        ranges = activation_ranges(source, how.calibration(), how.options.calibration, attention)

        def quantize(out: Path, exclude: Collection[str]) -> Precision:
            made = quantize_static(source, out, ranges, exclude, attention, how.options.any_session)
            if how.options.rest == "fp16":
                to_fp16(out, out)
            return made

        remark = f", {describe(graph.load(source))}" if attention else ""
        return how.within(source, path, quantize) + remark
    if file.precision == "fp16":
        to_fp16(source, path)
    else:
        to_fp32(source, path)
    return ""


def for_cpu(source: Path, path: Path, mode: str, how: _Quantizing | None) -> str:
    """Fused for ONNX Runtime; int8 quantizes activations as they come. fp16 has no kernels there, so it stays fp32.

    `how` None quantizes every layer, whatever it costs. Returns what the file is.
    """
    from export.cpu_graph import optimize_for_cpu
    from export.precision.int4 import fit_int4, to_int4
    from export.precision.int8_dynamic import to_int8_dynamic

    if mode == "int4":  # ONNX Runtime has no fused attention with 4-bit weights
        if how is None:
            to_int4(source, path)
            return "4-bit weights"
        fitted = fit_int4(source, how.calibration())
        return f"4-bit weights{how.within(source, path, lambda out, exclude: to_int4(source, out, exclude, fitted))}"
    if mode != "int8":
        optimize_for_cpu(source, path)
        return "fused for ONNX Runtime on a CPU"
    with tempfile.TemporaryDirectory() as folder:
        fused = Path(folder, "fused.onnx")
        optimize_for_cpu(source, fused)
        if how is None:
            to_int8_dynamic(fused, path)
            return "int8 dynamic"
        pairs = how.options.any_session
        return (
            f"int8 dynamic{how.within(fused, path, lambda out, exclude: to_int8_dynamic(fused, out, exclude, pairs))}"
        )


def shipped_file(file: FileChoice, note: str, loops: int | None = None) -> ShippedFile:
    """`form` is None where what the file is made for says it."""
    form = file.form if file.runtime == ONNXRUNTIME and file.form == "plain" else None
    return ShippedFile(file.path, file.runtime, file.precision, note, loops, form)


def finish(context: StageContext[Any], files: Sequence[ShippedFile]) -> None:
    """Write down what ships, with its size: last, as weights may have moved into a file apart."""
    from export.apart import stored_bytes

    files = [replace(file, bytes=stored_bytes(context.folder / file.path)) for file in files]
    for file in files:
        context.log(f"{file.path}: {file.bytes / 1e6:.2f} MB, {file.note}")
    rows = json.dumps([asdict(file) for file in files], indent=1)
    write_atomic(context.folder / "models.json", f"{rows}\n".encode())
    context.progress(1, 1)
