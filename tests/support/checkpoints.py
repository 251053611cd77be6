"""Small random checkpoints of Hugging Face classes, saved as their users save them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.utils.logging import disable_progress_bar

CLASSES: dict[str, tuple[type, type]] = {
    "vit": (ViTConfig, ViTForImageClassification),
    "deit": (DeiTConfig, DeiTForImageClassification),
    "deit with two heads": (DeiTConfig, DeiTForImageClassificationWithTeacher),
    "dinov2": (Dinov2Config, Dinov2ForImageClassification),
    "dinov2 with registers": (Dinov2WithRegistersConfig, Dinov2WithRegistersForImageClassification),
    "beit": (BeitConfig, BeitForImageClassification),
}
disable_progress_bar()


def saved(folder: Path, family: str, *, seed: int = 0, shard_size: str = "5GB", **changes: Any) -> PreTrainedModel:
    """A model with weights at which every part matters, and its checkpoint in `folder`."""
    config_class, model_class = CLASSES[family]
    sizes = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 8, "patch_size": 4}
    if not family.startswith("dinov2"):
        sizes |= {"intermediate_size": 20}
    config = config_class(**(sizes | {"num_labels": 5, "hidden_dropout_prob": 0.0} | changes))
    config._attn_implementation = "eager"
    model = model_class(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            gain = ("norm" in name and name.endswith("weight")) or "lambda" in name
            parameter.copy_(1 + 0.3 * noise if gain else noise * parameter.shape[-1] ** -0.5)
    model.save_pretrained(folder, max_shard_size=shard_size)
    return model


def pixels(channels: int, height: int, width: int, batch: int = 3) -> Tensor:
    """Random images (B, C, Y, X)."""
    return torch.randn((batch, channels, height, width), generator=torch.Generator().manual_seed(1))
