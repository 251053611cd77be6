"""bundle: everything that the device needs, in one folder that does not depend on when or where it was made."""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import targets
from compress.pipeline import StageContext
from compress.stages.artifacts import (
    CalibrationSet,
    Comparison,
    Engines,
    Localization,
    ModelArtifact,
    OnnxModel,
    ShippedModels,
    SourceModel,
)
from compress.stages.outcome import judge
from compress.stages.report import LIBRARIES, report_data
from compress.stages.samples import evaluation, fitted

if TYPE_CHECKING:
    import numpy as np

    from compress.verification.drift import Drift
    from runtime.bundles.manifest import BundleTarget


def write(
    context: StageContext,
    original: SourceModel,
    original_onnx: OnnxModel,
    models: ShippedModels,
    comparison: Comparison,
    model: ModelArtifact,
    localization: Localization,
    calibration: CalibrationSet,
    engines: Engines | None = None,
) -> None:
    """Options: `target`, `recipe`, `model` (names), `mode` (precision), `exit` (see the recipe), `data`."""
    from compress.verification.report import write_report
    from export.bundle import BundleContent, Form, write_bundle
    from runtime.bundles.manifest import EarlyExit, ModelFile

    structure = original.structure()
    verdict, _ = judge(comparison)
    passed = {name: drift for name, drift in {**comparison.variants(), **comparison.exits()}.items() if drift}
    entries = [*models.entries(), *(entry for entry in models.variants() if entry["path"] in passed)]
    forms = [
        Form(
            ModelFile(*(entry[key] for key in ("path", "runtime", "precision", "note", "loops", "form"))),
            models.path / entry["path"],
        )
        for entry in entries
    ]
    with tempfile.TemporaryDirectory() as folder:
        data = report_data(context, original, original_onnx, models, comparison, model, localization, engines)
        reports = write_report(data, Path(folder))
        content = BundleContent(
            task=structure.task,
            target=_target_section(context, original),
            forms=forms,
            golden_inputs=_golden_inputs(context, original, forms[0].source),
            edgepress=version("edgepress"),
            verdict="pass" if verdict == "pass" else "fail",
            preprocessing=structure.preprocessing,
            postprocessing=original.task.postprocessing(structure),
            labels=list(structure.labels) or None,
            state=original.task.states(model.structure()),
            drift={name: _summary(drift) for name, drift in {**comparison.drifts(), **passed}.items()},
            exit=EarlyExit(context.options["exit"]) if passed.keys() & comparison.exits() else None,
            model={"source": context.options["model"], "recipe": context.options["recipe"]},
            versions={name: version(name) for name in LIBRARIES},
            files=original.passengers
            | models.weights
            | {calibration.seen.name: calibration.seen}
            | {path.name: path for path in reports}
            | (engines.files() if engines is not None else {}),
        )
        write_bundle(context.folder, content)


def _target_section(context: StageContext, original: SourceModel) -> BundleTarget:
    from runtime.bundles.manifest import BundleTarget

    target = targets.load(context.options["target"])
    section: Any = target.manifest_section(context.options["mode"], original.longest)
    return BundleTarget(**section)


def _golden_inputs(context: StageContext, original: SourceModel, graph: Path) -> dict[str, np.ndarray]:
    """The first of as many evaluation samples, evenly over the data."""
    from compress.judging.questions import spread
    from export.onnx_model import read_info

    data = evaluation(context, original)
    count = original.task.golden
    inputs = original.task.shortened(next(data.batches(count, spread(len(data), count))))
    return fitted(inputs, read_info(graph).inputs)


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
