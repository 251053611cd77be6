"""Images for healing: a seeded order, augmented, the same again after a resume.

S samples, B batch, C channels, Y and X height and width, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from compress.data import ImageDataset
from compress.data.augment import draw_shifts, shifted
from compress.heal.options import HealOptions
from compress.heal.order import epoch_order

#: Prepared images up to this size are kept on the device; larger sets are decoded batch by batch.
HELD_BYTES = 4 << 30
#: Multiples of it, modulo 1, are spread evenly however many there are.
GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class ImageFeed:
    """Batches of a data set for one process of `world`; which images and how augmented follows from (seed, step)."""

    many_shapes: ClassVar[bool] = False

    dataset: ImageDataset
    preprocessing: Mapping[str, Any]
    seed: int
    device: torch.device
    rank: int = 0
    world: int = 1

    def draw(self, step: int, options: HealOptions) -> dict[str, Tensor]:
        """Which images a step takes and what is done to them; the images themselves if they are not kept."""
        indices_B = epoch_order(len(self.dataset), self.seed, step, options.batch_size, self.rank, self.world)
        draw, height = self.seed * self.world + self.rank, self.preprocessing["size"][0]
        drawn = {
            "indices": torch.from_numpy(indices_B),
            "shifts": draw_shifts(len(indices_B), height, seed=draw, step=step, flip=options.flip),
        }
        if options.mixup:
            shares = np.random.default_rng((draw, step, 1)).random(len(indices_B))
            drawn["shares"] = torch.from_numpy(shares.astype(np.float32))[:, None]
        if self._held is None:
            drawn["images"] = self._prepared(indices_B)
        return drawn

    def batch(self, drawn: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Inputs of a training step and the shares of the classes in them (B,K): one-hot labels, mixed like images."""
        images_BCYX = drawn["images"] if self._held is None else self._held[drawn["indices"]]
        x_BCYX = shifted(images_BCYX, drawn["shifts"])
        labels_BK = self._labels[drawn["indices"]]
        if "shares" not in drawn:
            return {"pixel_values": x_BCYX}, labels_BK
        share_B1 = drawn["shares"]
        mixed_BCYX = torch.lerp(x_BCYX, x_BCYX.flip(0), share_B1[:, :, None, None])
        return {"pixel_values": mixed_BCYX}, torch.lerp(labels_BK, labels_BK.flip(0), share_B1)

    def plain(self, size: int) -> list[dict[str, Tensor]]:
        """All images once, in order, without augmentation."""
        everything = np.arange(len(self.dataset))
        return [
            {"pixel_values": self._images(everything[start : start + size])}
            for start in range(0, len(everything), size)
        ]

    def judging(self, size: int) -> Iterator[dict[str, Tensor]]:
        """All images, and mixtures of each with one from the other half of them, in shares spread evenly over 0 to 1.

        Images that the original was trained on make it look better than it is elsewhere: of the narrow vit-cifar10 they
        show a fifteenth of the drift on test images, mixtures of them more than half.
        """
        yield from self.plain(size)
        count = len(self.dataset)
        shares = torch.from_numpy((np.arange(count) * GOLDEN % 1).astype(np.float32)).to(self.device)
        for part in np.split(np.arange(count), range(size, count, size)):
            share_B111 = shares[int(part[0]) : int(part[-1]) + 1, None, None, None]
            others = (part + count // 2) % count
            yield {"pixel_values": torch.lerp(self._images(part), self._images(others), share_B111)}

    def _images(self, indices_B: np.ndarray) -> Tensor:
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
