"""Calibration on random images, and rewrites by the tables that recipes write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from compress.heal import HealOptions
from compress.model import Transformer
from compress.model.block import Site
from compress.model.sequence import Tokens
from compress.rewrites import REWRITES, Calibration, parse_options, run_rewrite
from compress.rewrites.calibration import RIDGES
from support.tiny import images, logits


def calibration_of(model: Transformer, batches: int = 4, size: int = 8, notes: list[str] | None = None) -> Calibration:
    """Calibration on random images, with this model as the original."""
    inputs = [images(model, size, seed=1000 + number) for number in range(batches)]
    return Calibration(original=model, batches=lambda: iter(inputs), note=([] if notes is None else notes).append)


def rewritten(model: Transformer, use: str, calibration: Calibration | None = None, **options: Any) -> Transformer:
    """The model after one rewrite, of its decoder where there are two stacks."""
    stack = None if model.encoder is None else "decoder"
    return run_rewrite(*parse_options({"use": use, **options}), model, calibration or calibration_of(model), stack)


def example(use: str) -> dict[str, Any]:
    """The least that a rewrite has to be given, as it says itself."""
    return REWRITES[use].options.example().model_dump(mode="json", exclude_unset=True)


@torch.no_grad()
def seen(model: Transformer, calibration: Calibration, step: int, site: Site) -> torch.Tensor:
    """What passes a place of the model over the calibration inputs (B,N,D), in float64."""
    found: list[torch.Tensor] = []

    def observe(at: int, where: Site, tokens: Tokens) -> None:
        if (at, where) == (step, site):
            found.append(tokens.x_BND.double())

    for inputs in calibration.batches():
        model(inputs, observe)
    return torch.cat(found)


def moved(model: Transformer, other: Transformer) -> float:
    """Largest change of a logit on images that no calibration saw, relative to the largest logit above 1."""
    inputs = images(model, 8, seed=7)
    before, after = logits(model, inputs), logits(other, inputs)
    return float((before - after).abs().max()) / max(1.0, float(before.abs().max()))


class SomeImages:
    """A feed to heal on: the same random images in every step."""

    def __init__(self, model: Transformer) -> None:
        self.inputs = images(model, 12)

    def draw(self, step: int, options: HealOptions) -> dict[str, torch.Tensor]:
        return self.inputs

    def batch(self, drawn: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], None]:
        return dict(drawn), None

    def plain(self, size: int) -> list[dict[str, torch.Tensor]]:
        return [self.inputs]

    def judging(self, size: int) -> list[dict[str, torch.Tensor]]:
        return self.plain(size)


def stream_weights(stream_BND: np.ndarray) -> np.ndarray:
    """How much each token counts (B,N): 1 / its mean square."""
    return 1 / ((stream_BND**2).mean(-1) + 1e-6)


class Oracle:
    """y ~ x B + c as `Fitting` should find it, from the tokens themselves: x (B,N,I), y (B,N,O), stream (B,N,D)."""

    def __init__(self, x_BNI: Any, y_BNO: Any, stream_BND: Any, rank: int | None = None) -> None:
        parts = np.asarray(x_BNI), np.asarray(y_BNO), stream_weights(np.asarray(stream_BND))
        first, second = ([part[half::2] for part in parts] for half in range(2))
        crossed = {}
        for ridge in RIDGES:
            for full in (None, rank):
                left = [
                    self._unexplained(*two, *self._solved(*one, ridge, full))
                    for one, two in ((first, second), (second, first))
                ]
                crossed[ridge, full] = sum(left) / 2
        self.ridge = min(RIDGES, key=lambda ridge: crossed[ridge, None])
        self.fvu = crossed[self.ridge, rank]
        self.weight_IO, self.bias_O = self._solved(*parts, self.ridge, rank)
        self.fitted_BNO = parts[0] @ self.weight_IO + self.bias_O

    @staticmethod
    def _solved(x_BNI: Any, y_BNO: Any, w_BN: Any, ridge: float, rank: int | None) -> tuple[np.ndarray, np.ndarray]:
        root_T1 = np.sqrt(w_BN / w_BN.sum()).reshape(-1, 1)
        x_TI, y_TO = x_BNI.reshape(len(root_T1), -1), y_BNO.reshape(len(root_T1), -1)
        x_I, y_O = (root_T1**2 * x_TI).sum(0), (root_T1**2 * y_TO).sum(0)
        x_TI, y_TO = root_T1 * (x_TI - x_I), root_T1 * (y_TO - y_O)
        gram_II = x_TI.T @ x_TI
        lower_II = np.linalg.cholesky(gram_II + ridge * gram_II.trace() / len(gram_II) * np.eye(len(gram_II)))
        u, s, vh = np.linalg.svd(np.linalg.solve(lower_II, x_TI.T @ y_TO), full_matrices=False)
        weight_IO = np.linalg.solve(lower_II.T, u[:, :rank] * s[:rank] @ vh[:rank])
        return weight_IO, y_O - x_I @ weight_IO

    @staticmethod
    def _unexplained(x_BNI: Any, y_BNO: Any, w_BN: Any, weight_IO: np.ndarray, bias_O: np.ndarray) -> float:
        mean_O = np.average(y_BNO.reshape(-1, y_BNO.shape[-1]), axis=0, weights=w_BN.reshape(-1))
        error_BN, spread_BN = (((y_BNO - one) ** 2).sum(-1) for one in (x_BNI @ weight_IO + bias_O, mean_O))
        return float((w_BN * error_BN).sum() / (w_BN * spread_BN).sum())
