"""Augmentation for healing: shifted crops and mirror images, a pure function of (images, seed, step).

Legend: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def augment(x_BCHW: Tensor, *, seed: int, step: int, flip: bool, padding: int | None = None) -> Tensor:
    """Crop each image at a random offset out of its reflection-padded self; with `flip`, mirror half of them.

    Same `(seed, step)` and batch shape, same draw, on any device; a resumed run continues where it was.
    `flip=False` for what a mirror image makes wrong, such as digits. `padding` is in pixels, default H / 8 (He et
    al. 2016, arXiv 1512.03385, section 4.2: 4 for the 32 x 32 images of CIFAR-10), less than H and W.
    """
    import torch

    batch, _, height, width = x_BCHW.shape
    reach = height // 8 if padding is None else padding
    draw = np.random.default_rng((seed, step))
    down_B, right_B = draw.integers(-reach, reach + 1, (2, batch))
    mirror_B = draw.random(batch) < (0.5 if flip else 0.0)

    rows_BH = _reflect(np.arange(height) + down_B[:, None], height)
    columns_BW = _reflect(np.arange(width) + right_B[:, None], width)
    columns_BW = np.where(mirror_B[:, None], columns_BW[:, ::-1], columns_BW)

    device = x_BCHW.device
    rows_BCHW = torch.as_tensor(rows_BH, device=device)[:, None, :, None]
    columns_BCHW = torch.as_tensor(columns_BW, device=device)[:, None, None, :]
    batch_BCHW = torch.arange(batch, device=device)[:, None, None, None]
    channel_BCHW = torch.arange(x_BCHW.shape[1], device=device)[None, :, None, None]
    return x_BCHW[batch_BCHW, channel_BCHW, rows_BCHW, columns_BCHW]


def _reflect(index: np.ndarray, size: int) -> np.ndarray:
    """Indices outside 0..size-1 mirrored back at the edges, the edge itself not repeated."""
    last = size - 1
    return last - np.abs(last - np.abs(index))
