"""Maps of keypoints to places. B batch, C keypoints, Y and X height and width of a map."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def peaks(maps_BCYX: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each map is highest, float32 [B, C, 2] (x and y as shares of the image, from 0 to 1), and how high it is
    there, float32 [B, C].

    A peak is moved by a quarter of a cell to its higher neighbour (Newell et al. 2016, arXiv 1603.06937, section 3.2).
    """
    import numpy as np

    batch, keypoints, height, width = maps_BCYX.shape
    flat = maps_BCYX.reshape(batch, keypoints, -1)
    best_BC = flat.argmax(axis=2)
    padded = np.pad(maps_BCYX, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    b, c = np.ogrid[:batch, :keypoints]
    y_BC, x_BC = np.divmod(best_BC, width)
    across = padded[b, c, y_BC + 1, x_BC + 2] - padded[b, c, y_BC + 1, x_BC]
    down = padded[b, c, y_BC + 2, x_BC + 1] - padded[b, c, y_BC, x_BC + 1]
    places = np.stack([x_BC + 0.25 * np.sign(across), y_BC + 0.25 * np.sign(down)], axis=-1)
    shares = np.clip(places / [max(width - 1, 1), max(height - 1, 1)], 0, 1)
    return shares.astype(np.float32), np.take_along_axis(flat, best_BC[..., None], axis=2)[..., 0].astype(np.float32)
