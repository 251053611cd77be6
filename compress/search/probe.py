"""probe: a small model file whose time tells what one half of a layer costs, in the precision and form that ship.

Its weights are random: how long a file takes does not depend on them.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from compress.pipeline import Artifact, Stage, StageContext
from compress.search.shapes import Probe
from compress.spec import Spec
from compress.tables import PrecisionMode
from runtime.files import write_atomic

if TYPE_CHECKING:
    from compress.model import Transformer
    from compress.rewrites import Calibration
    from compress.stages.job import Job

NAME = "model.onnx"


class Options(Spec):
    """`structure` of the model. `whole`: it takes every exact form of a model that ships; otherwise packing alone."""

    structure: dict[str, Any]
    whole: bool
    mode: PrecisionMode
    form: Literal["fused", "plain"]
    opset: int


@dataclass(frozen=True)
class ProbeFile(Artifact):
    """One small model file."""

    @property
    def file(self) -> Path:
        return self.path / NAME

    @property
    def bytes(self) -> int:
        """Of the file."""
        return int(json.loads((self.path / "probe.json").read_text(encoding="utf-8"))["bytes"])


def form_of(job: Job) -> Literal["fused", "plain"]:
    """What the first backend of the target runs: a file of standard operators, or one fused for ONNX Runtime."""
    return "fused" if job.forms[0] == "fused" else "plain"


def stage(job: Job, name: str, probe: Probe) -> Stage:
    return Stage(
        name=name,
        does=f"writes a small file of {probe.label}",
        why="what a replacement saves is measured, not counted in operations",
        inputs={},
        produces=ProbeFile,
        run=write,
        options=Options(
            structure=probe.structure,
            whole=probe.whole,
            mode=probe.precision or job.mode,
            form=form_of(job),
            opset=job.opset,
        ),
        libraries=("torch", "onnx", "onnxscript", "onnxruntime"),
    )


def write(context: StageContext[Options]) -> None:
    import torch

    from compress import tasks
    from compress.model import Structure, Transformer
    from compress.rewrites import Calibration
    from export.onnx_model import export_onnx

    options = context.options
    structure = Structure.model_validate(options.structure)
    torch.manual_seed(context.seed)
    model = Transformer(structure).eval()
    task = tasks.get(structure.task)
    graph = task.graph_inputs(structure, context.seed)
    model = _in_form(model, Calibration(model, lambda: iter([graph.example]), lambda text: None), options.whole)
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder, NAME)
        export_onnx(
            task.module(model),
            graph.example,
            task.graph_outputs(model.structure),
            graph.dynamic,
            plain,
            opset=options.opset,
        )
        _converted(plain, context.folder / NAME, options, graph.example)
    size = (context.folder / NAME).stat().st_size
    write_atomic(context.folder / "probe.json", json.dumps({"bytes": size}).encode())


def _in_form(model: Transformer, calibration: Calibration, whole: bool) -> Transformer:
    from compress.rewrites import REWRITES, run_rewrite
    from compress.stages.export import in_export_form
    from targets.errors import InputError

    if whole:
        return in_export_form(model, calibration)[0]
    packing = REWRITES["pack-qkv"]
    try:
        return run_rewrite(packing, packing.options(), model, calibration)
    except InputError:  # no attention to pack
        return model


def _converted(source: Path, path: Path, options: Options, example: dict[str, Any]) -> None:
    """In the precision that ships; ranges of activations, on which no time depends, are of one random input."""
    from compress.stages.precision import for_cpu
    from export.precision.fp16 import to_fp16
    from export.precision.fp32 import to_fp32
    from export.precision.int8_static import activation_ranges, quantize_static

    if options.form == "fused":
        for_cpu(source, path, options.mode, None)
    elif options.mode == "int8":
        inputs = {name: tensor.numpy() for name, tensor in example.items()}
        quantize_static(source, path, activation_ranges(source, [inputs], "minmax"), ())
    elif options.mode == "fp16":
        to_fp16(source, path)
    else:
        to_fp32(source, path)
