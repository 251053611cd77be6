"""calibrate: choose the samples for fits and drift, and measure the original's layers in one streaming pass."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from compress.pipeline import StageContext
from compress.stages.artifacts import SourceModel
from compress.stages.samples import calibration_batches, healing, tell_notes
from runtime.files import write_atomic
from targets.errors import InputError

if TYPE_CHECKING:
    from compress.model import Transformer
    from compress.rewrites import Calibration


def calibrate(context: StageContext, original: SourceModel) -> None:
    """Options: `data`, `samples`, `held_out`."""
    import numpy as np

    from compress.data import seen
    from compress.rewrites import Calibration

    model = original.load()
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
    batches = calibration_batches(dataset, fit)
    layers = _layers(model, Calibration(model, batches, context.log), context)
    document = {"held_out": np.sort(order[:held_out]).tolist(), "fit": fit.tolist(), "layers": layers}
    write_atomic(context.folder / "calibration.json", json.dumps(document).encode())
    write_atomic(context.folder / seen.NAME, seen.to_bytes(dataset.fingerprints()))


def _layers(model: Transformer, calibration: Calibration, context: StageContext) -> list[dict[str, float]]:
    """Per layer: influence of the block (1 - cosine of in and out) and the share of its feed-forward that an affine
    map leaves unexplained."""
    import torch

    from compress.rewrites.calibration import target_moments
    from compress.rewrites.drop_blocks import influence

    blocks = list(range(len(model.structure.blocks)))
    with torch.no_grad():
        context.progress(0, 2, "influence of each block")
        influences = influence(model, calibration, blocks)
        context.progress(1, 2, "how affine each feed-forward is")
        moments = target_moments(model, calibration, blocks, "ffn", lambda block, x_BND, context: x_BND)
        fits = {block: moments[block].fit().fvu for block in blocks}
        context.progress(2, 2)
    return [
        {"layer": float(block), "influence": influences[block], "ffn_unexplained_by_affine": fits[block]}
        for block in blocks
    ]
