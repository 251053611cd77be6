"""Augmentation for healing: shifted crops and mirror images, a pure function of (images, seed, step).

Legend: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def augment(x_BCHW: Tensor, *, seed: int, step: int, flip: bool, padding: int | None = None) -> Tensor:
    """`shifted` by `draw_shifts`, for the height of these images."""
    batch, _, height, _ = x_BCHW.shape
    shifts_3B = draw_shifts(batch, height, seed=seed, step=step, flip=flip, padding=padding)
    # Only the draws travel to the device: a larger copy would wait until the device has done all it was given.
    return shifted(x_BCHW, shifts_3B.to(x_BCHW.device))


def draw_shifts(batch: int, height: int, *, seed: int, step: int, flip: bool, padding: int | None = None) -> Tensor:
    """For each image how far its crop lies down and right of it, in pixels, and whether it is mirrored: int64 (3,B).

    Same `(seed, step)` and batch, same draw; a resumed run continues where it was. `flip` mirrors half of the images;
    `flip=False` for what a mirror image makes wrong, such as digits. `padding` is in pixels, default H / 8 (He et
    al. 2016, arXiv 1512.03385, section 4.2: 4 for the 32 x 32 images of CIFAR-10), less than H and W.
    """
    import torch

    reach = height // 8 if padding is None else padding
    draw = np.random.default_rng((seed, step))
    down_B, right_B = draw.integers(-reach, reach + 1, (2, batch))
    mirror_B = draw.random(batch) < (0.5 if flip else 0.0)
    return torch.from_numpy(np.stack([down_B, right_B, mirror_B]))


def shifted(x_BCHW: Tensor, shifts_3B: Tensor) -> Tensor:
    """Each image cropped out of its reflection-padded self, and mirrored, as `draw_shifts` says."""
    import torch

    batch, channels, height, width = x_BCHW.shape
    device, draws_3B1 = x_BCHW.device, shifts_3B[..., None]
    rows_BH = _reflect(torch.arange(height, device=device) + draws_3B1[0], height)
    columns_BW = _reflect(torch.arange(width, device=device) + draws_3B1[1], width)
    columns_BW = torch.where(draws_3B1[2] > 0, columns_BW.flip(1), columns_BW)

    rows_BCHW, columns_BCHW = rows_BH[:, None, :, None], columns_BW[:, None, None, :]
    batch_BCHW = torch.arange(batch, device=device)[:, None, None, None]
    channel_BCHW = torch.arange(channels, device=device)[None, :, None, None]
    return x_BCHW[batch_BCHW, channel_BCHW, rows_BCHW, columns_BCHW]


def _reflect(index: Tensor, size: int) -> Tensor:
    """Indices outside 0..size-1 mirrored back at the edges, the edge itself not repeated."""
    last = size - 1
    return last - (last - index.abs()).abs()
