"""calibrate: choose the samples for fits and for drift, once all of them are found to be readable."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from compress.pipeline import Stage, StageContext
from compress.spec import Spec
from compress.stages.artifacts import CalibrationSet, SourceModel
from compress.stages.samples import healing, tell_notes
from compress.tables import CalibrateTable
from compress.tasks.task import DataChoice, Prepared
from runtime.files import write_atomic
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from compress.stages.job import Job


class Options(Spec):
    """`calibrate`: the recipe's table."""

    data: DataChoice
    calibrate: CalibrateTable


def stage(job: Job) -> Stage:
    table = job.recipe.calibrate
    return Stage(
        name="calibrate",
        does=f"chooses {table.samples} samples for fits and {table.held_out} to watch drift",
        why="closed-form rewrites and the quantizer are fitted on your data, never on evaluation samples",
        inputs={"original": "source"},
        produces=CalibrationSet,
        run=calibrate,
        options=Options(data=job.data, calibrate=table),
        sources=job.healing,
        libraries=job.task.libraries,
    )


def calibrate(context: StageContext[Options], original: SourceModel) -> None:
    from compress.data import seen

    dataset = healing(context.options.data, original)
    tell_notes(context, dataset)
    dataset.check()  # now, all of them, not one by one when healing first draws them
    choice = chosen(dataset, context.options.calibrate, context.seed)
    document = {use: indices.tolist() for use, indices in choice.items()}
    write_atomic(context.folder / "calibration.json", json.dumps(document).encode())
    write_atomic(context.folder / seen.NAME, seen.to_bytes(dataset.fingerprints()))


def chosen(dataset: Prepared, table: CalibrateTable, seed: int) -> dict[str, np.ndarray]:
    """Which samples to heal on are for what: `fit` for closed forms and quantizers, `held_out` to watch drift.

    Raises InputError for fewer than two different samples.
    """
    import numpy as np

    fingerprints = dataset.fingerprints()
    different = len(set(fingerprints))
    if different < 2:
        raise InputError(f"{dataset.location}: calibration needs at least 2 samples beside those to evaluate on")
    order = np.random.default_rng(seed).permutation(len(dataset)).tolist()
    # Copies of a sample that is kept aside are kept aside too: what learns from them knows it.
    aside = set(list(dict.fromkeys(fingerprints[place] for place in order))[: min(table.held_out, different // 2)])
    held = sorted(place for place in order if fingerprints[place] in aside)
    fit = sorted([place for place in order if fingerprints[place] not in aside][: table.samples])
    return {"held_out": np.array(held, np.int64), "fit": np.array(fit, np.int64)}
