"""Images for healing, and what they share with other files: a seeded order, augmented, the same again after a resume.

S samples, B batch, K classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from compress.data.augment import draw_shifts, shifted
from compress.data.dataset import LabelledDataset
from compress.heal.options import HealOptions
from compress.heal.order import epoch_order

#: Prepared samples up to this size are kept on the device; larger sets are decoded batch by batch.
HELD_BYTES = 4 << 30
#: Multiples of it, modulo 1, are spread evenly however many there are.
GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class SampleFeed(ABC):
    """Batches of a data set for one process of `world`; which samples and how augmented follows from (seed, step).
    `input`: the name of the model's input."""

    many_shapes: ClassVar[bool] = False
    input: ClassVar[str]

    dataset: LabelledDataset[Any]
    preprocessing: Mapping[str, Any]
    seed: int
    device: torch.device
    rank: int = 0
    world: int = 1

    def draw(self, step: int, options: HealOptions) -> dict[str, Tensor]:
        """Which samples a step takes and what is done to them; the samples themselves if they are not kept."""
        indices_B = epoch_order(len(self.dataset), self.seed, step, options.batch_size, self.rank, self.world)
        draw = self.seed * self.world + self.rank
        drawn = {"indices": torch.from_numpy(indices_B), "shifts": self._shifts(len(indices_B), draw, step, options)}
        if options.mixup:
            shares = np.random.default_rng((draw, step, 1)).random(len(indices_B))
            drawn["shares"] = torch.from_numpy(shares.astype(np.float32))[:, None]
        if self._held is None:
            drawn["samples"] = self._prepared(indices_B)
        return drawn

    def batch(self, drawn: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Inputs of a training step and the shares of the classes in them (B,K): one-hot labels, mixed like samples."""
        samples = drawn["samples"] if self._held is None else self._held[drawn["indices"]]
        x = self._moved(samples, drawn["shifts"])
        labels_BK = self._labels[drawn["indices"]]
        if "shares" not in drawn:
            return {self.input: x}, labels_BK
        share_B1 = drawn["shares"]
        mixed = torch.lerp(x, x.flip(0), _beside(share_B1[:, 0], x))
        return {self.input: mixed}, torch.lerp(labels_BK, labels_BK.flip(0), share_B1)

    def plain(self, size: int) -> list[dict[str, Tensor]]:
        """All samples once, in order, without augmentation."""
        everything = np.arange(len(self.dataset))
        return [
            {self.input: self._samples(everything[start : start + size])} for start in range(0, len(everything), size)
        ]

    def judging(self, size: int) -> Iterator[dict[str, Tensor]]:
        """All samples, and mixtures of each with one from the other half of them, in shares spread evenly over 0 to 1.

        Images that the original was trained on make it look better than it is elsewhere: of the narrow vit-cifar10 they
        show a fifteenth of the drift on test images, mixtures of them more than half.
        """
        yield from self.plain(size)
        count = len(self.dataset)
        shares = torch.from_numpy((np.arange(count) * GOLDEN % 1).astype(np.float32)).to(self.device)
        for part in np.split(np.arange(count), range(size, count, size)):
            mine, others = self._samples(part), self._samples((part + count // 2) % count)
            yield {self.input: torch.lerp(mine, others, _beside(shares[int(part[0]) : int(part[-1]) + 1], mine))}

    @abstractmethod
    def _shifts(self, count: int, draw: int, step: int, options: HealOptions) -> Tensor:
        """How far each of `count` samples is moved; a pure function of (draw, step)."""

    @abstractmethod
    def _moved(self, x: Tensor, shifts: Tensor) -> Tensor:
        """The samples, moved so."""

    def _samples(self, indices_B: np.ndarray) -> Tensor:
        if self._held is not None:
            return self._held[torch.from_numpy(indices_B).to(self.device)]
        return self._prepared(indices_B).to(self.device)

    @cached_property
    def _labels(self) -> Tensor:
        """One-hot (S,K)."""
        labels_S = torch.from_numpy(self.dataset.labels).to(self.device)
        return torch.nn.functional.one_hot(labels_S, len(self.dataset.class_names)).float()

    @cached_property
    def _held(self) -> Tensor | None:
        one = self._prepared(np.arange(1))
        if one.numel() * one.element_size() * len(self.dataset) > HELD_BYTES:
            return None
        return self._prepared(np.arange(len(self.dataset))).to(self.device)

    def _prepared(self, indices_B: np.ndarray) -> Tensor:
        parts = self.dataset.batches(self.preprocessing, batch_size=1024, indices=indices_B)
        return torch.cat([torch.from_numpy(images) for images, _ in parts])


@dataclass(frozen=True)
class ImageFeed(SampleFeed):
    """Images, cropped out of their reflection-padded selves, and mirrored."""

    input: ClassVar[str] = "pixel_values"

    def _shifts(self, count: int, draw: int, step: int, options: HealOptions) -> Tensor:
        return draw_shifts(count, self.preprocessing["size"][0], seed=draw, step=step, flip=options.flip)

    def _moved(self, x: Tensor, shifts: Tensor) -> Tensor:
        return shifted(x, shifts)


@dataclass(frozen=True)
class PromptedFeed(ImageFeed):
    """Images for healing, and the texts of all classes with every batch."""

    prompts: Mapping[str, Tensor] = field(default_factory=dict)

    def batch(self, drawn: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        inputs, labels_BK = super().batch(drawn)
        return {**inputs, **self.prompts}, labels_BK

    def plain(self, size: int) -> list[dict[str, Tensor]]:
        return [{**inputs, **self.prompts} for inputs in super().plain(size)]

    def judging(self, size: int) -> Iterator[dict[str, Tensor]]:
        return ({**inputs, **self.prompts} for inputs in super().judging(size))


def _beside(share_B: Tensor, x: Tensor) -> Tensor:
    """One number a sample, to weigh all of its numbers with."""
    return share_B.view(-1, *[1] * (x.ndim - 1))
