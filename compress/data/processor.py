"""A Hugging Face image processor's settings, read into the bundle's `preprocessing` section.

Covers the processors that resize, crop, rescale and normalize, in this order: ViT, DeiT, BiT (which DINOv2 uses),
CLIP, BEiT, SigLIP, YOLOS, DPT, ViTPose, and what timm does. What one of them says and the section cannot hold is an
error, never left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from compress.json_files import read_object
from compress.timm_config import in_plain_words, processor_settings
from runtime.images.image import parse_preprocessing
from targets.errors import InputError

_RESAMPLE = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_HALVES = {"image_mean": 0.5, "image_std": 0.5}
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
# What a file leaves out is the processor class's default, as in transformers 5.
_SHORTEST = {"resample": 3, "size": {"shortest_edge": 224}, "do_center_crop": True, "crop_size": 224, **_CLIP}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "ViT": {"resample": 2, "size": 224, **_HALVES},
    "DeiT": {"resample": 3, "size": 256, "do_center_crop": True, "crop_size": 224, **_HALVES},
    "Bit": _SHORTEST,
    "CLIP": _SHORTEST,
    "Beit": {"resample": 3, "size": 224, **_HALVES},
    "Siglip": {"resample": 3, "size": 224, **_HALVES},
    "Yolos": {"resample": 2, "size": {"shortest_edge": 800, "longest_edge": 1333}, **_IMAGENET},
    "DPT": {"resample": 3, "size": 384, "ensure_multiple_of": 1, **_HALVES},
    "VitPose": {"resample": 2, "size": {"height": 256, "width": 192}, **_IMAGENET},
    "DINOv3ViT": {"resample": 2, "size": 224, **_IMAGENET},
}
_SHAPELESS = "images are resized to {} x {}, whatever their shape, where the original's processor keeps it"
_ONE_EACH = (
    "each image is taken for one person or thing and resized to {} x {}, where the original's processor cuts it out of "
    "a larger one by its box: give such cuts, with an eighth of the box added on each side"
)
_COMMON = {
    "do_resize": True,
    "do_center_crop": False,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
}
_REFUSED = (
    "crop_pct",
    "do_pad",
    "pad_size",
    "do_flip_channel_order",
    "do_reduce_labels",
    "rescale_offset",
    "size_divisor",
)


def preprocessing_from_hf(folder: Path, note: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """The `preprocessing` section for a model folder's `preprocessor_config.json` (or `processor_config.json`, which
    goes before it where it says anything of images) and `config.json`.

    Without them: resized to the config's `image_size` and scaled to [-1, 1], ViT's habit, which `note` reports.
    Raises InputError for a setting that the section cannot hold.
    """
    config = read_object(folder / "config.json") if (folder / "config.json").exists() else {}
    config = in_plain_words(config)
    given = _settings(folder)
    of_timm = processor_settings(config)
    if given is None and of_timm is not None:
        return _section(folder / "config.json", of_timm, config)
    if given is not None:
        path, settings = given
        whole = _with_defaults(path, settings)
        if _kind(whole) == "DPT":
            whole = _in_whole_steps(path, whole, note)
        if _kind(whole) == "VitPose":
            note(_ONE_EACH.format(*_height_width(path, "size", whole["size"])))
        return _section(path, _of_one_size(path, whole, config, note) if _keeps_shapes(whole) else whole, config)
    size = config.get("image_size")
    if size is None:
        raise InputError(
            f"{folder} has neither preprocessor_config.json nor an image_size in config.json; add the former"
        )
    note(f"{folder} has no preprocessor_config.json: images are resized to {size} and scaled to [-1, 1], as for ViT")
    return _section(folder / "config.json", {**_COMMON, **_DEFAULTS["ViT"], "size": size}, config)


def has_settings(folder: Path) -> bool:
    """Whether a folder says how images are prepared. Raises InputError for a damaged file."""
    return _settings(folder) is not None


def _settings(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The image processor's own settings and the file that they are in, by the order of transformers."""
    path = folder / "processor_config.json"
    nested = read_object(path).get("image_processor") if path.exists() else None
    if nested is not None:
        if not isinstance(nested, dict):
            raise InputError(f"{path}: image_processor is {nested!r}; it must hold the settings of one")
        return path, nested
    path = folder / "preprocessor_config.json"
    return (path, read_object(path)) if path.exists() else None


def _kind(given: Mapping[str, Any]) -> str:
    kind = str(given.get("image_processor_type") or given.get("feature_extractor_type") or "ViTImageProcessor")
    for ending in ("Fast", "Pil", "ImageProcessor", "FeatureExtractor"):
        kind = kind.removesuffix(ending)
    return kind


def _with_defaults(path: Path, given: dict[str, Any]) -> dict[str, Any]:
    kind = _kind(given)
    if kind not in _DEFAULTS:
        raise InputError(f"{path}: the processor is {kind!r}; allowed: {', '.join(_DEFAULTS)}")
    if kind == "Yolos":  # images of one size need no padding
        given = {**given, "do_pad": False}
    if kind in ("Bit", "CLIP") and isinstance(given.get("size"), int):
        given = {**given, "size": {"shortest_edge": given["size"]}}
    return {**_COMMON, **_DEFAULTS[kind], **{key: value for key, value in given.items() if value is not None}}


def _keeps_shapes(settings: Mapping[str, Any]) -> bool:
    """Whether a processor of a detector gives images of many sizes; older folders name one edge."""
    size = settings["size"]
    return _kind(settings) == "Yolos" and (
        isinstance(size, int) or (isinstance(size, dict) and "shortest_edge" in size)
    )


def _of_one_size(
    path: Path, settings: Mapping[str, Any], config: Mapping[str, Any], note: Callable[[str], None]
) -> dict[str, Any]:
    """The settings with the one size that a graph has: the config's, in whole patches. Boxes are shares of an image, so
    they stay what they are."""
    size, patch = (_height_width(path, key, config.get(key)) for key in ("image_size", "patch_size"))
    whole = [edge - edge % step for edge, step in zip(size, patch, strict=True)]
    note(_SHAPELESS.format(*whole))
    return {**settings, "size": whole}


def _in_whole_steps(path: Path, settings: Mapping[str, Any], note: Callable[[str], None]) -> dict[str, Any]:
    """The settings of a depth estimator's processor with the size that a square image gets of it."""
    size, step = _height_width(path, "size", settings["size"]), settings["ensure_multiple_of"]
    if type(step) is not int or step < 1:
        raise InputError(f"{path}: ensure_multiple_of is {step!r}; allowed: a number of pixels")
    whole = [max(step, round(edge / step) * step) for edge in size]
    if settings.get("keep_aspect_ratio"):
        note(_SHAPELESS.format(*whole))
    return {**settings, "size": whole}


def _section(path: Path, settings: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    for key in _REFUSED:
        if settings.get(key):
            raise InputError(f"{path}: {key} is {settings[key]!r}, which is not supported; allowed: none")
    crop = _height_width(path, "crop_size", settings.get("crop_size")) if settings["do_center_crop"] else None
    resize = _resize(path, settings) if settings["do_resize"] else {"mode": "none"}
    if crop is None and resize["mode"] == "shortest_edge":
        raise InputError(f"{path}: size has a shortest_edge but nothing is cropped; images of one size are needed")
    size = crop or resize.get("size") or _height_width(path, "image_size", config.get("image_size"))
    mean = settings["image_mean"]
    stated = [config.get(key) for key in ("num_channels", "channels") if config.get(key) is not None]
    channels = stated[0] if stated else len(mean) if isinstance(mean, list) else 3
    if channels not in (1, 3) or isinstance(channels, bool):
        raise InputError(f"{path.parent}/config.json: num_channels is {channels!r}; allowed: 1, 3")
    plain = not settings["do_normalize"]
    section = {
        "kind": "image",
        "channels": channels,
        "size": size,
        "resize": resize,
        "center_crop": crop,
        "rescale": settings["rescale_factor"] if settings["do_rescale"] else 1.0,
        "mean": [0.0] * channels if plain else _per_channel(path, "image_mean", mean, channels),
        "std": [1.0] * channels if plain else _per_channel(path, "image_std", settings["image_std"], channels),
    }
    parse_preprocessing(section, str(path))
    return section


def _resize(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    if type(settings["resample"]) is not int or settings["resample"] not in _RESAMPLE:
        allowed = ", ".join(f"{number} ({name})" for number, name in _RESAMPLE.items())
        raise InputError(f"{path}: resample is {settings['resample']!r}; allowed: {allowed}")
    resample = _RESAMPLE[settings["resample"]]
    size = settings["size"]
    if isinstance(size, dict) and set(size) == {"shortest_edge"}:
        return {"mode": "shortest_edge", "size": size["shortest_edge"], "resample": resample}
    return {"mode": "exact", "size": _height_width(path, "size", size), "resample": resample}


def _height_width(path: Path, key: str, value: Any) -> list[int]:
    if isinstance(value, dict) and set(value) == {"height", "width"}:
        value = [value["height"], value["width"]]
    pair = [value, value] if isinstance(value, int) else value
    if isinstance(pair, list) and len(pair) == 2 and all(type(edge) is int and edge > 0 for edge in pair):
        return pair
    raise InputError(f"{path}: {key} is {value!r}; allowed: a number of pixels, or height and width")


def _per_channel(path: Path, key: str, value: Any, channels: int) -> list[float]:
    values = value if isinstance(value, list) else [value]
    if len(values) == 1:
        values = values * channels
    if len(values) != channels or not all(isinstance(number, int | float) for number in values):
        raise InputError(f"{path}: {key} is {value!r} but the model has {channels} channels; give one number for each")
    return [float(number) for number in values]
