"""calibrate: choose the samples for fits and for drift, once all of them are found to be readable."""

from __future__ import annotations

import json

from compress.pipeline import StageContext
from compress.stages.artifacts import SourceModel
from compress.stages.samples import healing, tell_notes
from runtime.files import write_atomic
from targets.errors import InputError


def calibrate(context: StageContext, original: SourceModel) -> None:
    """Options: `data`, `samples`, `held_out`."""
    import numpy as np

    from compress.data import seen

    dataset = healing(context, original)
    tell_notes(context, dataset)
    dataset.check()  # now, all of them, not one by one when healing first draws them
    samples, held_out = context.options["samples"], context.options["held_out"]
    if len(dataset) < 2:
        raise InputError(f"{dataset.location}: calibration needs at least 2 samples beside those to evaluate on")
    held_out = min(held_out, len(dataset) // 2)
    samples = min(samples, len(dataset) - held_out)
    order = np.random.default_rng(context.seed).permutation(len(dataset))
    fit = np.sort(order[held_out : held_out + samples])
    document = {"held_out": np.sort(order[:held_out]).tolist(), "fit": fit.tolist()}
    write_atomic(context.folder / "calibration.json", json.dumps(document).encode())
    write_atomic(context.folder / seen.NAME, seen.to_bytes(dataset.fingerprints()))
