"""Pixels in, model input out: the same code prepares images for training and on the device.

Shape suffixes: B batch, H height, W width, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from runtime.images.resample import Filter, Window, resize
from targets.errors import InputError
from targets.strict import read

if TYPE_CHECKING:
    import numpy as np

Colours = Literal["rgb", "bgr"]

MAX_RESIZED = 1 << 24  # pixels of an image that is brought to another size
_SLICE = 1 << 22  # most pixels normalized at once: bounds the memory of their indices


@dataclass(frozen=True)
class Resize:
    """`exact`: to size [height, width]; `shortest_edge`: that edge to size, the other in proportion; `none`."""

    mode: Literal["exact", "shortest_edge", "none"]
    size: int | tuple[int, int] | None = None
    resample: Filter = "bilinear"

    def __post_init__(self) -> None:
        fits = {"exact": isinstance(self.size, tuple), "shortest_edge": isinstance(self.size, int), "none": True}
        edges = self.size if isinstance(self.size, tuple) else (self.size or 0,)
        if not fits[self.mode] or (self.mode != "none" and not (min(edges) > 0 and math.prod(edges) <= MAX_RESIZED)):
            allowed = "[height, width]" if self.mode == "exact" else "one whole number"
            raise ValueError(f"size is {self.size}, allowed with mode {self.mode!r}: {allowed}")

    def target(self, height: int, width: int) -> tuple[int, int]:
        """The size (height, width) that an image of that size is brought to. Raises InputError for one of too many."""
        if self.mode == "none":
            return height, width
        if isinstance(self.size, tuple):
            return self.size
        assert self.size is not None
        long = int(self.size * max(height, width) / min(height, width))
        if self.size * long > MAX_RESIZED:
            raise InputError(
                f"image of {height} x {width}: with its shorter edge at {self.size} it has more than the {MAX_RESIZED} "
                "pixels allowed; crop it"
            )
        return (long, self.size) if width <= height else (self.size, long)


@dataclass(frozen=True)
class ImagePreprocessing:
    """How an image becomes a model's input, in this order: channels, resize, centre crop, rescale, normalize."""

    kind: Literal["image"]
    channels: Literal[1, 3]
    size: tuple[int, int]
    resize: Resize
    rescale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    center_crop: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(f"mean and std have {len(self.mean)} and {len(self.std)} values, allowed: {self.channels}")
        if not all(map(math.isfinite, (self.rescale, *self.mean, *self.std))):
            raise ValueError("rescale, mean and std hold NaN or infinity, allowed: finite numbers")
        if 0.0 in self.std:
            raise ValueError("std has a zero, allowed: other numbers")
        if min(self.size) < 1 or self.size[0] * self.size[1] > MAX_RESIZED:
            raise ValueError(
                f"size is {self.size}, allowed: [height, width] of 1 or more, {MAX_RESIZED} pixels at most"
            )


def parse_preprocessing(section: Mapping[str, object], where: str = "preprocessing") -> ImagePreprocessing:
    """Read a manifest's `preprocessing` section. Raises InputError; an unknown key is refused, not skipped."""
    return read(ImagePreprocessing, section, where)


def prepare(
    images: np.ndarray | Sequence[np.ndarray], preprocessing: Mapping[str, object], colours: Colours = "rgb"
) -> np.ndarray:
    """uint8 images to a model's input, float32 [B, C, H, W].

    `images` is one array [B, H, W, C] or a sequence of [H, W, C] or [H, W] of any sizes; `preprocessing` is the
    manifest's section; `colours` the order of three or more channels. Raises InputError if an image or the section does
    not fit.
    """
    import numpy as np

    spec = parse_preprocessing(preprocessing)
    if isinstance(images, np.ndarray) and images.ndim == 4:
        pixels_BHWC = _shape(images, spec, colours)
    elif len(images) == 0:
        pixels_BHWC = np.zeros((0, *spec.size, spec.channels), np.uint8)
    else:
        pixels_BHWC = np.concatenate([_shape(_as_hwc(image)[None], spec, colours) for image in images])
    table_VC = (np.arange(256.0)[:, None] * spec.rescale - np.array(spec.mean)) / np.array(spec.std)
    table_CV = table_VC.T.astype(np.float32)
    out = np.empty((len(pixels_BHWC), spec.channels, *spec.size), np.float32)
    some = max(1, _SLICE // (spec.size[0] * spec.size[1]))
    for start in range(0, len(out), some):
        for channel in range(spec.channels):  # 256 possible values per channel: look the arithmetic up
            piece = pixels_BHWC[start : start + some, ..., channel]
            out[start : start + some, channel] = table_CV[channel][piece]
    return out


def center_crop(images_BHWC: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The middle (height, width) of each image; an image smaller than that is framed in zeros."""
    import numpy as np

    height, width = images_BHWC.shape[1:3]
    crop_height, crop_width = size
    add_height, add_width = max(0, crop_height - height), max(0, crop_width - width)
    if add_height or add_width:
        top, left = (add_height + 1) // 2, (add_width + 1) // 2
        edges = ((0, 0), (top, add_height - top), (left, add_width - left), (0, 0))
        images_BHWC = np.pad(images_BHWC, edges)
        height, width = height + add_height, width + add_width
    top, left, _, _ = middle((height, width), size)
    return images_BHWC[:, top : top + crop_height, left : left + crop_width]


def middle(size: tuple[int, int], crop: tuple[int, int]) -> Window:
    """Where the middle (height, width) of a larger image lies."""
    return (size[0] - crop[0]) // 2, (size[1] - crop[1]) // 2, *crop


def with_channels(images_BHWC: np.ndarray, channels: int) -> np.ndarray:
    """Grey (1) or RGB (3) images as wanted; alpha is dropped. Luma is ITU-R 601-2 in Pillow's arithmetic."""
    import numpy as np

    have = images_BHWC.shape[-1]
    if have not in (1, 3, 4):
        raise InputError(f"image with {have} channels; allowed: 1 (grey), 3 (RGB), 4 (RGB and alpha)")
    if have == 4:
        images_BHWC = images_BHWC[..., :3]
    if channels == min(have, 3):
        return images_BHWC
    if channels == 3:
        return np.repeat(images_BHWC, 3, axis=-1)
    luma = images_BHWC.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
    return ((luma + 0x8000) >> 16).astype(np.uint8)[..., None]


def _shape(images_BHWC: np.ndarray, spec: ImagePreprocessing, colours: Colours) -> np.ndarray:
    """Channels, resize and crop: uint8 [B, *size, channels]."""
    if images_BHWC.dtype != "uint8":
        raise InputError(f"image of type {images_BHWC.dtype}; allowed: uint8")
    turned = colours == "bgr" and images_BHWC.shape[-1] >= 3
    if turned and spec.channels == 1:
        images_BHWC = images_BHWC[..., 2::-1]
    images_BHWC = with_channels(images_BHWC, spec.channels)
    size, crop = spec.resize.target(*images_BHWC.shape[1:3]), spec.center_crop
    if crop is not None and crop[0] <= size[0] and crop[1] <= size[1]:  # what is cut off need not be computed
        images_BHWC = resize(images_BHWC, size, spec.resize.resample, middle(size, crop))
    else:
        images_BHWC = resize(images_BHWC, size, spec.resize.resample)
        images_BHWC = images_BHWC if crop is None else center_crop(images_BHWC, crop)
    if turned and spec.channels == 3:  # the small image is turned, not the camera's
        images_BHWC = images_BHWC[..., ::-1]
    if images_BHWC.shape[1:3] != spec.size:
        height, width = images_BHWC.shape[1:3]
        wanted = f"{spec.size[0]} x {spec.size[1]}"
        raise InputError(
            f"image is {height} x {width} after preprocessing, the model wants {wanted}; resize or crop it"
        )
    return images_BHWC


def _as_hwc(image: np.ndarray) -> np.ndarray:
    if image.ndim == 2:
        return image[:, :, None]
    if image.ndim == 3 and image.size:
        return image
    raise InputError(f"image of shape {list(image.shape)}; allowed: [height, width] or [height, width, channels]")
