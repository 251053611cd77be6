"""Texts for healing: a seeded order, the same again after a resume.

S samples, B batch, N tokens, K classes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from compress.heal.options import HealOptions
from compress.heal.order import epoch_order
from runtime.texts.text import TextPreprocessing, pad
from targets.errors import InputError

#: Lengths are rounded up to a multiple of this, so that few shapes occur (a GPU compiles each).
MULTIPLE = 16
INDICES = "indices"


@dataclass(frozen=True)
class TextFeed:
    """Batches of token ids for one process of `world`; which follow from (seed, step). `labels` int64 [S], if any,
    or [S, K] of 0 and 1 where a text has several;
    `most`: the most texts at once where all are asked for."""

    many_shapes: ClassVar[bool] = False

    ids: Sequence[Sequence[int]]
    labels: np.ndarray | None
    classes: int
    spec: TextPreprocessing
    seed: int
    device: torch.device
    rank: int = 0
    world: int = 1
    most: int = sys.maxsize

    def draw(self, step: int, options: HealOptions) -> dict[str, Tensor]:
        """The inputs (B,N) of a step, and which texts they are.

        Raises InputError for options that texts have no use for.
        """
        if options.mixup:
            raise InputError("heal.mixup mixes images; leave it out for texts")
        indices_B = epoch_order(len(self.ids), self.seed, step, options.batch_size, self.rank, self.world)
        return {**self._padded(indices_B.tolist()), INDICES: torch.from_numpy(indices_B)}

    def batch(self, drawn: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor | None]:
        """Inputs (B,N) of a training step and labels (B,K) of 0 and 1, None without any."""
        inputs = {name: tensor for name, tensor in drawn.items() if name != INDICES}
        return inputs, None if self._one_hot is None else self._one_hot[drawn[INDICES]]

    def plain(self, size: int) -> list[dict[str, Tensor]]:
        """All texts once, in order."""
        size = min(size, self.most)
        return [
            {name: tensor.to(self.device) for name, tensor in self._padded(part).items()}
            for part in (range(start, min(start + size, len(self.ids))) for start in range(0, len(self.ids), size))
        ]

    def judging(self, size: int) -> list[dict[str, Tensor]]:
        """All texts."""
        return self.plain(size)

    def _padded(self, indices: Sequence[int]) -> dict[str, Tensor]:
        inputs = pad([self.ids[index] for index in indices], self.spec, MULTIPLE)
        return {name: torch.from_numpy(array) for name, array in inputs.items()}

    @cached_property
    def _one_hot(self) -> Tensor | None:
        if self.labels is None:
            return None
        labels = torch.from_numpy(self.labels).to(self.device)
        return (labels if labels.dim() == 2 else torch.nn.functional.one_hot(labels, self.classes)).float()
