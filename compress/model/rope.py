"""Rotary position embedding (Su et al. 2021) in the half-split layout of Hugging Face.

B batch, N tokens, H heads, K head size, I pairs of a head, Y and X rows and columns of a grid.
"""

from __future__ import annotations

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from compress.spec import Spec


class RopeSpec(Spec):
    """Pair (i, i + K/2) of a head turns by position * theta^(-2i/K). `size`: how many numbers of a head, the first
    ones, turn, as a head of that size would. `frequencies`: what a position turns each pair by, in place of the powers
    of theta (scaled positions: linear, Llama 3, YaRN, LongRoPE). `gain`: turned numbers are multiplied by it."""

    theta: float = 10000.0
    size: PositiveInt | None = None
    frequencies: tuple[float, ...] | None = None
    gain: PositiveFloat = 1.0

    @model_validator(mode="after")
    def _pairs(self) -> RopeSpec:
        if self.size is not None and self.size % 2:
            raise ValueError(f"size {self.size} is odd, but rotary positions turn pairs")
        return self

    def turned(self, head_dim: int) -> int:
        """How many of the first numbers of a head turn."""
        return self.size or head_dim

    def angles(self, places_BN: Tensor, head_dim: int, dtype: torch.dtype) -> Tensor:
        """By what each pair turns at these places (B or 1, N, I)."""
        half = self.turned(head_dim) // 2
        if self.frequencies is not None:
            turns_I = torch.tensor(self.frequencies, device=places_BN.device, dtype=dtype)
        else:
            exponent_I = torch.arange(half, device=places_BN.device, dtype=dtype) / half
            turns_I = self.theta**-exponent_I
        return places_BN[..., None].to(dtype) * turns_I


class GridRopeSpec(Spec):
    """Patches turn by where they lie: the first half of the pairs by row_places[y] * frequencies, the second by
    column_places[x] * frequencies. Tokens are `prefix` ones, which do not turn, and then the patches row by row."""

    row_places: tuple[float, ...]
    column_places: tuple[float, ...]
    frequencies: tuple[float, ...]
    prefix: NonNegativeInt = 1
    gain: PositiveFloat = 1.0

    def turned(self, head_dim: int) -> int:
        """How many of the first numbers of a head turn: all."""
        return head_dim

    def angles(self, places_BN: Tensor, head_dim: int, dtype: torch.dtype) -> Tensor:
        """By what each pair turns at these places (B or 1, N, I)."""
        row_Y, column_X, turns = (
            torch.tensor(numbers, device=places_BN.device, dtype=dtype)
            for numbers in (self.row_places, self.column_places, self.frequencies)
        )
        grid = len(row_Y), len(column_X), len(turns)
        rows_YXI = (row_Y[:, None] * turns)[:, None].expand(grid)
        columns_YXI = (column_X[:, None] * turns)[None].expand(grid)
        patches_PI = torch.cat([rows_YXI, columns_YXI], dim=-1).flatten(0, 1)
        whole_NI = torch.cat([patches_PI.new_zeros(self.prefix, patches_PI.shape[1]), patches_PI])
        return whole_NI[places_BN]


AnyRope = RopeSpec | GridRopeSpec


def rotate(x_BHNK: Tensor, positions_BN: Tensor, spec: AnyRope) -> Tensor:
    """Turn queries or keys by their positions (B or 1, N)."""
    size, whole = spec.turned(x_BHNK.shape[-1]), x_BHNK.shape[-1]
    dtype = torch.promote_types(x_BHNK.dtype, torch.float32)  # half is too coarse for angles
    angle_BNI = spec.angles(positions_BN, whole, dtype)
    cos, sin = (torch.cat([part] * 2, dim=-1)[:, None] for part in (angle_BNI.cos(), angle_BNI.sin()))
    if spec.gain != 1.0:
        cos, sin = cos * spec.gain, sin * spec.gain
    turning, rest = x_BHNK[..., :size], x_BHNK[..., size:]
    half = size // 2
    swapped = torch.cat([-turning[..., half:], turning[..., :half]], dim=-1)
    turned = turning * cos.to(x_BHNK.dtype) + swapped * sin.to(x_BHNK.dtype)
    return turned if size == whole else torch.cat([turned, rest], dim=-1)
