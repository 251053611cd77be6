"""Healing towards the original and a convolutional network that learned the same images, on stronger augmentation.

B batch, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from benchmarks.lab import images as vit_lab
from benchmarks.train import vit_cifar10
from compress.data import ImageDataset
from compress.heal import ImageFeed
from compress.heal.objective import CLASSIFICATION, Distance, kl_divergence
from compress.model import Transformer

#: The name under which the second teacher's logits travel beside the images.
SECOND = "second_logits"
BATCH = 512


def second_teacher(train: ImageDataset, held_out: ImageDataset, original: Transformer, seconds: float) -> nn.Module:
    """A ResNet-9 that was trained for `seconds` on the images that heal."""
    device = str(next(original.parameters()).device)
    learned, known = (_bytes(vit_lab.prepared(part, original, device)) for part in (train, held_out))
    data = vit_cifar10.Data(learned, known, known, list(train.class_names))
    return vit_cifar10.train_teacher(data, BATCH, seconds, device.partition(":")[0])


def _bytes(part: vit_lab.ImageSet) -> vit_cifar10.Split:
    return vit_cifar10.Split((part.images.mul(0.5).add(0.5).mul(255)).round().byte(), part.labels)


@dataclass(frozen=True)
class TaughtFeed(ImageFeed):
    """Images, moved, recoloured, with erased boxes, mixed or pasted into each other, and what `second` says of them."""

    second: nn.Module = field(default_factory=nn.Identity)

    def batch(self, drawn: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        inputs, labels_BK = super().batch(drawn)
        x = vit_cifar10.recolour(inputs[self.input].mul(0.5).add(0.5)).sub(0.5).div(0.5)
        x, mixed_BK = vit_cifar10.mix(vit_cifar10.erase(x), labels_BK)
        return self._taught(x), mixed_BK

    def judging(self, size: int) -> Iterator[dict[str, Tensor]]:
        yield from (self._taught(inputs[self.input]) for inputs in super().judging(size))

    @torch.no_grad()
    def _taught(self, x: Tensor) -> dict[str, Tensor]:
        with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False):
            logits_BC = self.second(x.contiguous(memory_format=torch.channels_last))
        return {self.input: x, SECOND: logits_BC.float()}


def _both(answer_BC: Tensor, target_BC: Tensor, inputs: Mapping[str, Tensor], temperature: float) -> Tensor:
    """Mean of T^2 KL from both teachers."""
    targets = (target_BC, inputs[SECOND])
    return torch.stack([kl_divergence(answer_BC, target, temperature) for target in targets]).mean()


#: Half of the distance is the second teacher's.
TWO_TEACHERS = Distance(_both, CLASSIFICATION.teach, "mean KL from both teachers")
