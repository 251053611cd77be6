"""What the benchmarks of vision transformers share: models, image sets, scores, counts, and results as JSON.

S samples, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from compress.data import ImageDataset, preprocessing_from_hf
from compress.data import load as load_images
from compress.model import Transformer
from compress.rewrites import Calibration, parse_options, run_rewrite
from compress.tasks import read_checkpoint
from compress.verification.statistics import paired_rate_interval

ROOT = Path(__file__).parents[2]
HELD_OUT = 0.02
BATCH = 1000


@dataclass(frozen=True)
class ImageSet:
    """Prepared images (S, channels, height, width) and labels (S,) on a device."""

    images: Tensor
    labels: Tensor


def original(name: str) -> Transformer:
    """A model of the zoo, in fp32 on the CPU."""
    folder = ROOT / "compress" / "zoo" / name
    return read_checkpoint(folder, preprocessing_from_hf(folder))


def training_parts(data: str) -> tuple[ImageDataset, ImageDataset]:
    """(healing, held out): of the training images, the last 2 % of each class in order are held out.

    With all 50,000 of CIFAR-10 these are the 1,000 images that vit-cifar10 itself did not see.
    """
    everything = load_images(data, part="healing")
    held_out = np.zeros(len(everything), bool)
    for label in np.unique(everything.labels):
        members = np.flatnonzero(everything.labels == label)
        held_out[members[-round(HELD_OUT * len(members)) :]] = True
    return everything.subset(np.flatnonzero(~held_out)), everything.subset(np.flatnonzero(held_out))


def test_images(data: str, limit: int | None = None) -> ImageDataset:
    """The test images, or `limit` of them, evenly over the classes."""
    return load_images(data, part="evaluation", limit=limit)


def prepared(dataset: ImageDataset, model: Transformer, device: str) -> ImageSet:
    """All images of a data set."""
    parts = list(dataset.batches(model.structure.preprocessing, batch_size=BATCH))
    images = torch.from_numpy(np.concatenate([images for images, _ in parts])).to(device)
    return ImageSet(images, torch.from_numpy(dataset.labels).to(device))


@torch.no_grad()
def answers(model: Transformer, images: Tensor) -> Tensor:
    """Logits (S,C), in fp32."""
    return torch.cat([model({"pixel_values": part}) for part in torch.split(images, BATCH)])


def scores(logits_SC: Tensor, target_SC: Tensor, labels_S: Tensor) -> dict[str, float]:
    """Top-1, cross-entropy with the labels, agreement with the original and mean KL from it (nats)."""
    divergence = F.kl_div(
        F.log_softmax(logits_SC, -1), F.log_softmax(target_SC, -1), reduction="batchmean", log_target=True
    )
    same = (logits_SC.argmax(-1) == target_SC.argmax(-1)).double().mean()
    return {
        "top1": float((logits_SC.argmax(-1) == labels_S).double().mean()),
        "cross_entropy": round(float(F.cross_entropy(logits_SC, labels_S)), 5),
        "agreement": float(same),
        "kl": round(float(divergence), 5),
    }


def drop(right_S: Tensor, original_right_S: Tensor) -> dict[str, float]:
    """Drop of top-1 in points with the gate's paired 95 % interval, both models on the same images."""
    losses, wins = int((original_right_S & ~right_S).sum()), int((right_S & ~original_right_S).sum())
    low, high = paired_rate_interval(losses, wins, len(right_S))
    points = {"drop": (losses - wins) / len(right_S), "low": low, "high": high}
    return {name: round(100 * value, 3) for name, value in points.items()}


def calibration_of(model: Transformer, images: Tensor, notes: list[str]) -> Calibration:
    """Calibration on these images; what the rewrites found out is added to `notes`."""

    def batches() -> Iterator[dict[str, Tensor]]:
        return iter([{"pixel_values": part} for part in torch.split(images, 256)])

    return Calibration(model, batches, notes.append)


def rewritten(model: Transformer, tables: list[dict[str, Any]], calibration: Calibration) -> Transformer:
    """The model after a recipe's `[[rewrite]]` tables."""
    for table in tables:
        model = run_rewrite(*parse_options(table), model, calibration)
    return model


def block_parameters(model: Transformer) -> int:
    """Trained numbers of the blocks, tied ones counted once."""
    return sum(parameter.numel() for parameter in model.blocks.parameters())


def macs(model: Transformer) -> int:
    """Multiply-accumulates of one image: every matrix product and convolution, attention's own included."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    embed = model.structure.embed.model_dump()
    model = model.copy().cpu()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model({"pixel_values": torch.zeros(1, embed["channels"], *embed["image_size"])})
    return int(counter.get_total_flops()) // 2
