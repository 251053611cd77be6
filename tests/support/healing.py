"""What healing needs, small: a damaged model, a few of the zoo's images, one process on the CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from compress.data import ImageDataset, load
from compress.heal import Healed, HealOptions, ImageFeed, heal
from compress.model import Transformer
from compress.model.embeds.patch import PatchEmbedSpec
from compress.model.heads.classifier import ClassifierSpec
from compress.rewrites import Calibration, parse_options, run_rewrite
from compress.tasks import read_checkpoint
from compress.zoo import FOLDER
from support.tiny import HIDDEN, block_spec, model_of

MNIST = {
    "kind": "image",
    "channels": 1,
    "size": [28, 28],
    "resize": {"mode": "none", "size": [28, 28], "resample": "bilinear"},
    "rescale": 1 / 255,
    "mean": [0.1307],
    "std": [0.3081],
}


def feed(count: int, seed: int = 0, skip: int = 0, **changes: Any) -> ImageFeed:
    """Images of handwritten digits, `count` after the first `skip`."""
    dataset = digits().subset(range(skip, 7 * count + skip, 7))
    return ImageFeed(dataset, MNIST, seed, torch.device("cpu"), **changes)


@functools.cache
def digits() -> ImageDataset:
    return load("zoo:mnist-calibration")


def numbered(folder: Path, count: int) -> ImageDataset:
    """Images of one grey each, 8 x 8: image i has the value i and the label i."""
    images = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None], (count, 8, 8))
    np.savez(folder / "numbered.npz", images=images, labels=np.arange(count))
    return load(str(folder / "numbered.npz"))


GREY = MNIST | {"size": [8, 8], "resize": {**MNIST["resize"], "size": [8, 8]}, "mean": [0.0], "std": [1.0]}


def tiny(layers: int = 2, **block: Any) -> Transformer:
    """A random model that reads digits as four large patches."""
    embed = PatchEmbedSpec(channels=1, image_size=(28, 28), patch_size=(14, 14))
    model = model_of(*[block_spec(**block)] * layers, embed=embed, head=ClassifierSpec(num_labels=10))
    with torch.no_grad():  # 196 pixels go into each token
        model.embed.patch.weight.mul_(HIDDEN / 196)  # type: ignore[operator, union-attr]
    return model


@functools.cache
def vit_mnist() -> Transformer:
    """The trained model of the zoo."""
    return read_checkpoint(FOLDER / "vit-mnist", MNIST)


def damaged(model: Transformer, use: str, **options: Any) -> Transformer:
    """The model after one rewrite, calibrated on a few digits."""
    calibration = Calibration(model, lambda: iter(feed(64, seed=1).plain(32)), note=lambda text: None)
    return run_rewrite(*parse_options({"use": use, **options}), model, calibration)


def healed(
    model: Transformer,
    original: Transformer,
    work: Path,
    *,
    seed: int = 0,
    images: int = 64,
    progress: Callable[..., None] = lambda *args, **numbers: None,
    log: Callable[[str], None] = print,
    **options: Any,
) -> Healed:
    """Heal with options as recipes give them, on images that the held-out ones are not among."""
    given = HealOptions.model_validate({"batch_size": 8, "flip": False} | options)
    held_out = feed(32, seed=seed, skip=3)
    accelerator = Accelerator(cpu=True)
    return heal(model, original, feed(images, seed=seed), held_out, given, accelerator, work, progress, log=log)
