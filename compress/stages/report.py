"""report: what was done and what it cost, for people (HTML, Markdown) and for machines (JSON, JUnit, SARIF)."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.pipeline import Stage, StageContext
from compress.spec import Spec
from compress.stages.artifacts import (
    Answers,
    Comparison,
    Engines,
    Localization,
    ModelArtifact,
    OnnxModel,
    ReportArtifact,
    ShippedModels,
    SourceModel,
    Timing,
)
from compress.stages.notes import LIBRARIES
from compress.stages.samples import evaluation
from compress.stages.timing import ORIGINAL
from compress.tasks.task import DataChoice
from targets.machine import architecture

if TYPE_CHECKING:
    from compress.stages.job import Job
    from compress.tasks.task import Task
    from compress.verification.report_data import Curve, ReportData, Variant
    from targets.spec import Target


class Options(Spec):
    """`target`, `recipe`, `model`: names. `place`: where the latencies were measured."""

    data: DataChoice
    target: str
    place: str
    recipe: str
    model: str


def stage(job: Job, model: str, engines: dict[str, str]) -> Stage:
    """`model`: the stage that made what was exported. `engines`: the stage that built engines, if there is one."""
    return Stage(
        name="report",
        does="writes report.html, report.md, report.json and junit.xml",
        why="people read the page, CI reads the rest",
        inputs={
            "original": "source",
            "original_onnx": "baseline-export",
            "original_int8": "baseline-int8",
            "answers_int8": "predict-int8",
            "reference": "baseline",
            "models": "precision",
            "comparison": "verify",
            "timing": "timing",
            "model": model,
            **engines,
            "localization": "localize",
        },
        produces=ReportArtifact,
        run=write,
        options=Options(
            data=job.data,
            target=job.target.name,
            place=place(job.target, architecture()),
            recipe=job.recipe_name,
            model=job.model_name,
        ),
        sources=job.evaluation,
        libraries=("edgepress",),
    )


def place(target: Target, arch: str) -> str:
    """Where a workstation of that architecture measures latencies: a target that is any CPU of its kind is there too.

    'this workstation's CPU, not on jetson-orin-nano'."""
    hardware = target.hardware
    is_any_cpu = hardware.compute_capability is None and not hardware.device_models
    here = "this workstation's CPU"
    return here if is_any_cpu and hardware.arch == arch else f"{here}, not on {target.name}"


def write(
    context: StageContext[Options],
    original: SourceModel,
    original_onnx: OnnxModel,
    original_int8: ShippedModels,
    answers_int8: Answers,
    reference: Answers,
    models: ShippedModels,
    comparison: Comparison,
    timing: Timing,
    model: ModelArtifact,
    localization: Localization,
    engines: Engines | None = None,
) -> None:
    """The same numbers for all readers."""
    from compress.verification.report import threads_text, write_report

    times = timing.load()
    data = report_data(context, original, original_onnx, models, comparison, model, localization, engines)
    quantized = [
        _variant(
            f"original {file.note}",
            original_int8.path / file.path,
            role="baseline",
            metric=_metric(original.task, answers_int8, file.path, reference),
        )
        for file in original_int8.entries()
    ]
    variants = [data.variants[0], *quantized, *data.variants[1:]]
    timed = tuple(
        row.model_copy(
            update={
                "latency_ms": times["median_ms"].get(row.name),
                "threads": times["threads"].get(row.name),
                "speedup": times["speedup"].get(row.name),
            }
        )
        for row in variants
    )
    speeds = [
        f"{name}: {ratio:.2f} times as fast as the original fp32, median of {len(times['rounds'])} rounds, batch 1, "
        f"{threads_text(times['threads'][name])} against {times['threads'][ORIGINAL]}, {times['machine']}"
        for name, ratio in times["speedup"].items()
        if name != ORIGINAL
    ]
    write_report(
        data.model_copy(
            update={
                "variants": timed,
                "timing": _timing(original, context.options.place),
                "notes": (*data.notes, *speeds),
                "curves": _decoding(times.get("decode", [])),
            }
        ),
        context.folder,
    )


def report_data(
    context: StageContext[Options],
    original: SourceModel,
    original_onnx: OnnxModel,
    models: ShippedModels,
    comparison: Comparison,
    model: ModelArtifact,
    localization: Localization,
    engines: Engines | None,
) -> ReportData:
    """Everything but what depends on the clock: the same run gives the same report."""
    from compress.verification.report_data import ExtraCheck, ReportData

    drifts = {**comparison.drifts(), **comparison.variants()}
    where = localization.load()
    entries = models.entries()
    main, others = entries[0], entries[1:]
    decided = drifts[main.path]
    samples = evaluation(context.options.data, original)
    shown: dict[str, Any] = original.task.shown(samples, [example.index for example in decided.changed])
    name = original.task.metric
    reference = decided.metric(name)
    rows = [
        _variant(
            ORIGINAL,
            original_onnx.file,
            role="reference",
            parameters=original.num_parameters(),
            metric=reference.reference if reference else None,
        )
    ]
    parameters = model.num_parameters()
    for file in models.every():
        metric = drifts[file.path].metric(name)
        rows.append(
            _variant(
                file.path,
                models.path / file.path,
                role="candidate" if file == main else "other",
                parameters=parameters if file in entries else None,
                metric=metric.candidate if metric else None,
                note=f"{file.precision}, {file.runtime}: {file.note}",
            )
        )
    checks = tuple(
        ExtraCheck(
            name=f"drift of {file.path}",
            status=drifts[file.path].status,
            message=drifts[file.path].gate.message,
        )
        for file in others
    )
    checks += tuple(comparison.checks())
    return ReportData(
        schema=1,
        edgepress=version("edgepress"),
        model=context.options.model,
        task=original.structure().task,
        target=context.options.target,
        recipe=context.options.recipe,
        drift=decided,
        checks=checks,
        variants=tuple(rows),
        stages=where["stages"],
        stage_samples=where["samples"],
        blocks=where["blocks"],
        **shown,
        environment={
            **{name: version(name) for name in LIBRARIES},
            "python": platform.python_version(),
            "machine": platform.machine(),
        },
        notes=(
            *original.held,
            *samples.notes,
            *(engines.lines() if engines else _remarks(models)),
            *_on_loops(models, comparison),
        ),
    )


def _on_loops(models: ShippedModels, comparison: Comparison) -> list[str]:
    """Which other numbers of loops the bundle offers, and what an early exit costs."""
    drifts = {**comparison.variants(), **comparison.exits()}
    said = {file.path: f"loops {file.loops}" for file in models.variants()}
    return [
        f"{said.get(name, name)}: {'offered' if drift else 'not offered'}: {drift.gate.message}"
        for name, drift in drifts.items()
    ]


def _timing(original: SourceModel, place: str) -> str:
    """What the latencies are of."""
    length = original.task.timing_length(original.structure())
    size = f"{length} tokens" if length > 1 else "one sample"
    return f"on {place}; {size}, without its preparation"


def _decoding(rows: list[dict[str, Any]]) -> tuple[Curve, ...]:
    """How fast each file decodes, how large its state is and how much memory its process takes, against the tokens
    before; nothing for other models."""
    from compress.verification.report_data import Curve, Series

    def curve(title: str, unit: str, key: str, scale: float) -> Curve:
        names = dict.fromkeys(row["name"] for row in rows)
        found = {name: [row for row in rows if row["name"] == name] for name in names}
        series = tuple(
            Series(
                name=name,
                x=tuple(row["context"] for row in ones),
                y=tuple(row[key] / scale for row in ones),
            )
            for name, ones in found.items()
        )
        return Curve(title=title, x_label="Tokens before", y_label=unit, series=series)

    if not rows:
        return ()
    return (
        curve("Decoding", "Tokens per second", "tokens_per_second", 1),
        curve("State of a sequence", "MB", "state_bytes", 1e6),
        curve("Peak memory while decoding", "MB", "peak_bytes", 1e6),
    )


def _metric(task: Task, answers: Answers, name: str, reference: Answers) -> float | None:
    """The task's metric, or None for a file that was not asked."""
    from compress.verification.metrics import METRICS

    if not answers.has(name):
        return None
    return METRICS[task.metric].value(answers.load(name).beside(reference.load()))


def _variant(name: str, file: Path, **fields: Any) -> Variant:
    from compress.verification.report_data import Variant
    from export.apart import stored_bytes

    return Variant(name=name, bytes=stored_bytes(file), **fields)


def _remarks(models: ShippedModels) -> list[str]:
    from export.neighbours import ASKED_ALONE, depends_on_batch

    alone = [f"{file.path}: {ASKED_ALONE}" for file in models.every() if depends_on_batch(models.path / file.path)]
    if any(file.precision == "int8" for file in models.entries()):
        alone.append(
            "Programs that open an int8 file with ONNX Runtime alone set session.x64quantprecision to 1 on x86 without "
            "VNNI, unless it was made with precision.any_session = true. The bundle's own runtime sees to that itself."
        )
    if any(file.runtime == "tensorrt" for file in models.entries()):
        return [
            *alone,
            "model.onnx is for TensorRT: the device builds its engine with `python -m runtime.build BUNDLE`. "
            "Here its numbers were measured with ONNX Runtime on a CPU; no engine was run.",
        ]
    return alone
