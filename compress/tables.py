"""The tables of a recipe, but the rewrites: what each may say, with its defaults. Stages take theirs as options."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from compress.spec import Spec
from compress.verification.outcome import MIN_SAMPLES

PrecisionMode = Literal["fp32", "fp16", "int8", "int4"]
CalibrationMethod = Literal["minmax", "entropy", "percentile"]


class ModelTable(Spec):
    """`source`: `zoo:NAME`, a Hugging Face model folder or a folder of a compressed model. `check`: where transformers
    is installed, hold what was read against its own forward pass on two small inputs."""

    source: str = "zoo:vit-cifar10"
    check: bool = True


class DataTable(Spec):
    """`source`: see `compress.data.load`; a zoo model brings its own. `limit`: how many samples to evaluate on.
    `skip_corrupt`: leave out images that cannot be read instead of stopping."""

    source: str | None = None
    limit: PositiveInt | None = None
    skip_corrupt: bool = False


class CalibrateTable(Spec):
    """`samples`: how many inputs the closed-form fits and the quantizer see. `held_out`: how many of the healing
    samples are kept aside to measure drift while the model is changed."""

    samples: PositiveInt = 512
    held_out: PositiveInt = 256


class PrecisionTable(Spec):
    """`mode`: number format of the weights and products that ship; the target's own choice if not given.

    `calibration`: how int8 finds the ranges of activations. `smooth`: how much of the outliers of activations moves
    into the weights before int8 (SmoothQuant's alpha, 0 to 1); none if not given. `max_error`: largest error of the
    quantized outputs, as a part of their size, on samples that nothing was fitted on; where it is larger, up to
    `max_kept` of the layers that cost most stay in fp32. `rest`: what TensorRT's int8 file computes in beside its int8
    layers. `attention`: "int8" quantizes attention's products in that file too, where TensorRT can fuse them; "both"
    ships a file of each kind. `beside`: number formats of more files for TensorRT. Of several files the device keeps
    the fastest engine that passes.
    `loops`: looped blocks as nodes of each loop, or as one Scan node: fewer bytes, but runtimes fuse less.
    `any_session`: round int8 weights so that the files are right in every ONNX Runtime session, for programs that open
    them without our runtime on x86 without VNNI. Neighbouring weights then sum up to 128 at most."""

    mode: PrecisionMode | None = None
    calibration: CalibrationMethod = "percentile"
    smooth: float | None = Field(default=None, ge=0, le=1)
    max_error: NonNegativeFloat = 0.2
    max_kept: NonNegativeInt = 8
    rest: Literal["fp32", "fp16"] = "fp32"
    attention: Literal["float", "int8", "both"] = "float"
    beside: tuple[PrecisionMode, ...] = ()
    loops: Literal["unrolled", "scan"] = "unrolled"
    any_session: bool = False


class LoopsTable(Spec):
    """Other numbers of loops of a looped model that the device may choose from (`--loops 4`). `offer`: a file each,
    which shares its weights with the whole model's; what fails the gate is not offered. `exit`: the probability at
    which a classifier's answer after fewer loops is final (`--exit`), gated as well; none if not given."""

    offer: tuple[PositiveInt, ...] = ()
    exit: float | None = Field(default=None, gt=0, lt=1)

    @model_validator(mode="after")
    def _there_is_something_to_exit_from(self) -> LoopsTable:
        if self.exit is not None and not self.offer:
            raise ValueError("exit needs the numbers of loops to exit after; give some with offer")
        return self


class GateTable(Spec):
    """`max_drop`: largest drop of the task's metric in points that the worse end of the paired interval may show;
    `confidence` of that interval; `min_samples` below which nothing is judged."""

    max_drop: NonNegativeFloat = 1.0
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    min_samples: PositiveInt = MIN_SAMPLES
