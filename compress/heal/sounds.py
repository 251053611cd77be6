"""Recordings for healing. B batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from compress.data.augment import draw_shifts, shifted
from compress.heal.images import SampleFeed
from compress.heal.options import HealOptions


@dataclass(frozen=True)
class SoundFeed(SampleFeed):
    """Spectrograms, which begin up to an eighth of their frames earlier or later."""

    input: ClassVar[str] = "input_values"

    def _shifts(self, count: int, draw: int, step: int, options: HealOptions) -> Tensor:
        """The first row alone: frames. Bins stay, and nothing is mirrored."""
        shifts_3B = draw_shifts(count, self.preprocessing["frames"], seed=draw, step=step, flip=False)
        return shifts_3B * torch.tensor([[1], [0], [0]])

    def _moved(self, x: Tensor, shifts: Tensor) -> Tensor:
        return shifted(x[:, None], shifts)[:, 0]
