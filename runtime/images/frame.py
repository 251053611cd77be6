"""A picture in memory, as cameras and video files give it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from runtime.images.image import Colours


@dataclass(frozen=True)
class Frame:
    """Pixels, uint8 [H, W], [H, W, 1] or [H, W, 3|4] in the order `colours`, and what results and errors call them."""

    name: str
    pixels: np.ndarray
    colours: Colours = "rgb"
