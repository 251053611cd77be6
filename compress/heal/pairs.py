"""Pairs of a source and a target for healing, and what is minimized on them.

B batch, S source tokens, N target tokens, V vocabulary.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from compress.data.pairs.prepared import TARGET_MASK, pair_inputs
from compress.heal.objective import Distance, given, mean_of_real, token_kl
from compress.heal.options import HealOptions
from compress.heal.order import epoch_order
from compress.heal.texts import MULTIPLE
from runtime.texts.text import TextPreprocessing
from targets.errors import InputError

#: The tokens that the target says (B,N); those behind it are not weighed.
WANTED = "wanted"


@dataclass(frozen=True)
class PairFeed:
    """Batches of pairs of token ids for one process of `world`; which follow from (seed, step)."""

    many_shapes: ClassVar[bool] = True  # a length of the sources by one of the targets

    pairs: Sequence[tuple[Sequence[int], ...]]
    spec: TextPreprocessing
    seed: int
    device: torch.device
    rank: int = 0
    world: int = 1
    most: int = sys.maxsize

    def draw(self, step: int, options: HealOptions) -> dict[str, Tensor]:
        """The inputs of a step. Raises InputError for options that texts have no use for."""
        if options.mixup:
            raise InputError("heal.mixup mixes images; leave it out for texts")
        indices_B = epoch_order(len(self.pairs), self.seed, step, options.batch_size, self.rank, self.world)
        return self._padded(indices_B.tolist())

    def batch(self, drawn: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor | None]:
        """Inputs of a training step and the tokens that the targets say (B,N)."""
        return dict(drawn), drawn[WANTED]

    def plain(self, size: int) -> list[dict[str, Tensor]]:
        """All pairs once, in order."""
        size = min(size, self.most)
        return [
            {
                name: tensor.to(self.device)
                for name, tensor in self._padded(range(start, min(start + size, len(self.pairs)))).items()
            }
            for start in range(0, len(self.pairs), size)
        ]

    def judging(self, size: int) -> list[dict[str, Tensor]]:
        """All pairs."""
        return self.plain(size)

    def _padded(self, indices: Sequence[int]) -> dict[str, Tensor]:
        sources, targets = zip(*(self.pairs[index] for index in indices), strict=True)
        inputs = {
            name: torch.from_numpy(array) for name, array in pair_inputs(sources, targets, self.spec, MULTIPLE).items()
        }
        wanted = torch.zeros_like(inputs[TARGET_MASK])
        for row, target in zip(wanted, targets, strict=True):
            row[: len(target)] = torch.tensor(target)
        return {**inputs, WANTED: wanted}


def _token_kl(answer_BNV: Tensor, target_BNV: Tensor, inputs: Mapping[str, Tensor], temperature: float) -> Tensor:
    return token_kl(answer_BNV, target_BNV, inputs[TARGET_MASK], temperature)


def _surprise(answer_BNV: Tensor, inputs: Mapping[str, Tensor], labels: Tensor | None) -> Tensor:
    surprise_BN = F.cross_entropy(answer_BNV.float().transpose(1, 2), given(labels), reduction="none")
    return mean_of_real(surprise_BN, inputs[TARGET_MASK])


#: KL from the original's next tokens, mean over the real ones of the targets (word-level distillation, Kim and Rush
#: 2016, arXiv 1606.07947); `task`: cross-entropy with the targets themselves. Sequence-level distillation is the same
#: on targets that the original wrote.
TARGET_TOKENS = Distance(_token_kl, _surprise)
