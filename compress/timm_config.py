"""The config.json of a timm folder in the words of Hugging Face, so that the rest of the house knows one form only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

#: timm's names of ways to resize -> Pillow's numbers.
_RESAMPLE = {"nearest": 0, "bilinear": 2, "bicubic": 3}


def in_plain_words(config: dict[str, Any]) -> dict[str, Any]:
    """The config itself, or for a timm folder what stands in it by the names that Hugging Face uses, beside it."""
    made, architecture = config.get("pretrained_cfg"), config.get("architecture")
    if not isinstance(made, dict) or not isinstance(architecture, str) or "model_type" in config:
        return config
    classes, names = config.get("num_classes", made.get("num_classes")), config.get("label_names")
    size = made.get("input_size")
    shape = {"num_channels": size[0], "image_size": size[1:]} if isinstance(size, list) and len(size) == 3 else {}
    named = isinstance(names, list) and len(names) == classes
    return {
        **config,
        "model_type": "timm",
        "architectures": ["TimmForImageClassification" if classes else "TimmModel"],
        **shape,
        **({"id2label": dict(enumerate(names))} if named and isinstance(names, list) else {}),
    }


def processor_settings(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """What timm does with an image before the model gets it, as the settings of an image processor of Hugging Face;
    None for a config that is not timm's."""
    made = config.get("pretrained_cfg")
    if config.get("model_type") != "timm" or not isinstance(made, dict):
        return None
    size, share = config.get("image_size", [224, 224]), made.get("crop_pct") or 0.875
    edge = math.floor(min(size) / share)
    cropped = made.get("crop_mode", "center") == "center"
    return {
        "do_resize": True,
        "size": {"shortest_edge": edge} if cropped else [math.floor(side / share) for side in size],
        "resample": _RESAMPLE.get(str(made.get("interpolation", "bicubic"))),
        "do_center_crop": cropped or share != 1,
        "crop_size": size,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": made.get("mean"),
        "image_std": made.get("std"),
    }
