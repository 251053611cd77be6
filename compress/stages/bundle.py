"""bundle: everything that the device needs, in one folder that does not depend on when or where it was made."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import targets
from compress.pipeline import Stage, StageContext
from compress.spec import Spec
from compress.stages.artifacts import (
    BundleArtifact,
    CalibrationSet,
    Comparison,
    Engines,
    ShippedModels,
    SourceModel,
)
from compress.stages.looks import reference, unknown_token
from compress.stages.notes import LIBRARIES
from compress.stages.outcome import judge
from compress.stages.samples import evaluation
from compress.tables import PrecisionMode
from compress.tasks.task import DataChoice
from export.app import app_bytes
from runtime.files import user_path

if TYPE_CHECKING:
    from compress.stages.job import Job
    from compress.tasks.task import Arrays
    from compress.verification.drift import Drift
    from export.bundle import Form
    from runtime.bundles.manifest import BundleTarget
    from runtime.field.drift import Summary


class Options(Spec):
    """`target`, `recipe`, `model`: names. `mode`: the precision that ships. `exit`: see the recipe. `app`: SHA-256 of
    the device side that travels with it."""

    data: DataChoice
    target: str
    recipe: str
    model: str
    mode: PrecisionMode
    exit: float | None
    app: str


def stage(job: Job, engines: dict[str, str]) -> Stage:
    """`engines`: the stage that built engines, if there is one."""
    return Stage(
        name="bundle",
        does="puts everything that the device needs into one folder, with hashes and golden samples",
        why="the device runs it with numpy and onnxruntime alone, and notices a damaged file",
        inputs={
            "original": "source",
            "models": "precision",
            "comparison": "verify",
            "calibration": "calibrate",
            **engines,
        },
        produces=BundleArtifact,
        run=write,
        options=Options(
            data=job.data,
            target=job.target.name,
            recipe=_named(job.recipe_name),
            model=_named(job.model_name),
            mode=job.mode,
            exit=job.recipe.loops.exit,
            app=hashlib.sha256(app_bytes()).hexdigest(),
        ),
        sources={**job.evaluation, **job.target_file},
        libraries=("numpy", "onnxruntime", "edgepress"),
    )


def _named(given: str) -> str:
    """A recipe or model as a device hears of it: a user's own by its name, without the folders of the workstation."""
    place = user_path(given)
    return place.resolve().name if place.exists() else given


def write(
    context: StageContext[Options],
    original: SourceModel,
    models: ShippedModels,
    comparison: Comparison,
    calibration: CalibrationSet,
    engines: Engines | None = None,
) -> None:
    """Reports stay outside: they show the user's samples, which have no business on a device."""
    from export.bundle import BundleContent, Form, write_bundle
    from runtime.bundles.manifest import EarlyExit

    structure, probability = original.structure(), context.options.exit
    verdict, _ = judge(comparison)
    passed = {name: drift for name, drift in {**comparison.variants(), **comparison.exits()}.items() if drift}
    files = [*models.entries(), *(file for file in models.variants() if file.path in passed)]
    forms = [Form(file.entry, models.path / file.path) for file in models.files(files)]
    content = BundleContent(
        task=structure.task,
        target=_target_section(context, original),
        forms=forms,
        golden=_golden_inputs(context, original, forms),
        edgepress=version("edgepress"),
        verdict="pass" if verdict == "pass" else "fail",
        preprocessing=structure.preprocessing,
        postprocessing=original.task.postprocessing(structure),
        labels=list(original.task.classes(structure, evaluation(context.options.data, original))) or None,
        drift={name: _summary(drift) for name, drift in {**comparison.drifts(), **passed}.items()},
        exit=EarlyExit(probability) if probability is not None and passed.keys() & comparison.exits() else None,
        model={"source": context.options.model, "recipe": context.options.recipe},
        versions={name: version(name) for name in LIBRARIES},
        files=original.passengers
        | models.weights
        | {calibration.seen.name: calibration.seen}
        | (engines.files() if engines is not None else {}),
        looks=_looks(context, original, forms),
    )
    write_bundle(context.folder, content)


def _target_section(context: StageContext[Options], original: SourceModel) -> BundleTarget:
    from runtime.bundles.manifest import BundleTarget

    target = targets.load(context.options.target)
    section: Any = target.manifest_section(context.options.mode, original.longest)
    return BundleTarget(**section)


def _golden_inputs(context: StageContext[Options], original: SourceModel, forms: Sequence[Form]) -> dict[str, Arrays]:
    """What each graph is given for the first of as many evaluation samples, evenly over the data."""
    from compress.judging.questions import spread
    from runtime.bundles.manifest import main_file

    data, task = evaluation(context.options.data, original), original.task
    inputs = task.shortened(next(data.batches(task.golden, spread(len(data), task.golden))))
    graphs = {form.entry.graph: form.source for form in forms if form.entry.path == main_file(form.entry.graph)}
    return task.golden_inputs(graphs, inputs)


def _looks(context: StageContext[Options], original: SourceModel, forms: Sequence[Form]) -> Summary | None:
    """What samples to evaluate on look like to the first file of a model of one graph."""
    from runtime.bundles.manifest import GRAPH

    if any(form.entry.graph != GRAPH for form in forms):
        return None
    named = original.structure().preprocessing.get("tokenizer")
    tokenizer = original.passengers.get(named) if isinstance(named, str) else None
    unknown = unknown_token(tokenizer) if tokenizer is not None else None
    return reference(evaluation(context.options.data, original), forms[0].source, unknown)


def _summary(drift: Drift) -> dict[str, Any]:
    """What a device integrator wants to know of the drift of one file."""
    metrics = {
        metric.name: {
            "reference": metric.reference,
            "candidate": metric.candidate,
            "drop": metric.drop,
            "value": metric.value,
            "interval": [metric.low, metric.high],
        }
        for metric in drift.metrics
    }
    return {"status": str(drift.status), "samples": drift.samples, "message": drift.gate.message, "metrics": metrics}
