"""data: the samples held to the model and the gate, before anything that takes long."""

from __future__ import annotations

import json

from compress.pipeline import StageContext
from compress.stages.artifacts import SourceModel
from compress.stages.samples import evaluation, healing
from runtime.files import write_atomic


def match_data(context: StageContext, original: SourceModel) -> None:
    """Options: `data`, `min_samples` of the gate. Raises InputError for classes that are not the model's or samples
    that the task cannot judge. Fewer than the gate needs are told: it will fail, but sizes and times may be wanted."""
    judged, learned = evaluation(context, original), healing(context, original)
    least = context.options["min_samples"]
    if len(judged) < least:
        context.warn(f"the gate will fail: {len(judged)} samples to evaluate on, gate.min_samples is {least}")
    counts = {"evaluation": len(judged), "healing": len(learned)}
    write_atomic(context.folder / "data.json", json.dumps(counts).encode())
    context.log(f"{len(judged):,} samples to evaluate on, {len(learned):,} to calibrate and heal on")
