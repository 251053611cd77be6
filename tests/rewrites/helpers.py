"""Calibration on random images, and rewrites by the tables that recipes write."""

from __future__ import annotations

from typing import Any

import torch
from model.tiny import images, logits
from torch import Tensor

from compress.model import Transformer
from compress.model.block import Site
from compress.rewrites import Calibration, parse_options, run_rewrite


def calibration_of(model: Transformer, batches: int = 4, size: int = 8, notes: list[str] | None = None) -> Calibration:
    """Calibration on random images, with this model as the original."""
    inputs = [images(model, size, seed=1000 + number) for number in range(batches)]
    return Calibration(original=model, batches=lambda: iter(inputs), note=([] if notes is None else notes).append)


def rewritten(model: Transformer, use: str, calibration: Calibration | None = None, **options: Any) -> Transformer:
    """The model after one rewrite."""
    return run_rewrite(*parse_options({"use": use, **options}), model, calibration or calibration_of(model))


@torch.no_grad()
def seen(model: Transformer, calibration: Calibration, step: int, site: Site) -> Tensor:
    """What passes a place of the model over the calibration inputs (B,N,D), in float64."""
    found: list[Tensor] = []

    def observe(at: int, where: Site, x_BND: Tensor) -> None:
        if (at, where) == (step, site):
            found.append(x_BND.double())

    for inputs in calibration.batches():
        model(inputs, observe)
    return torch.cat(found)


def moved(model: Transformer, other: Transformer) -> float:
    """Largest change of a logit on images that no calibration saw, relative to the largest logit above 1."""
    inputs = images(model, 8, seed=7)
    before, after = logits(model, inputs), logits(other, inputs)
    return float((before - after).abs().max()) / max(1.0, float(before.abs().max()))
