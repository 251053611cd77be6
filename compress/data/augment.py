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

    # Only the draws travel to the device: a larger copy would wait until the device has done all it was given.
    device = x_BCHW.device
    draws_3B1 = torch.as_tensor(np.stack([down_B, right_B, mirror_B]), device=device)[..., None]
    rows_BH = _reflect(torch.arange(height, device=device) + draws_3B1[0], height)
    columns_BW = _reflect(torch.arange(width, device=device) + draws_3B1[1], width)
    columns_BW = torch.where(draws_3B1[2] > 0, columns_BW.flip(1), columns_BW)

    rows_BCHW, columns_BCHW = rows_BH[:, None, :, None], columns_BW[:, None, None, :]
    batch_BCHW = torch.arange(batch, device=device)[:, None, None, None]
    channel_BCHW = torch.arange(x_BCHW.shape[1], device=device)[None, :, None, None]
    return x_BCHW[batch_BCHW, channel_BCHW, rows_BCHW, columns_BCHW]


def _reflect(index: Tensor, size: int) -> Tensor:
    """Indices outside 0..size-1 mirrored back at the edges, the edge itself not repeated."""
    last = size - 1
    return last - (last - index.abs()).abs()
