"""Rotary position embedding (Su et al. 2021) in the half-split layout of Hugging Face. K head size."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.spec import Spec


class RopeSpec(Spec):
    """Pair (i, i + K/2) of a head turns by position * theta^(-2i/K)."""

    theta: float = 10000.0


def rotate(x_BHNK: Tensor, positions_BN: Tensor, spec: RopeSpec) -> Tensor:
    """Turn queries or keys by their positions (B or 1, N)."""
    half = x_BHNK.shape[-1] // 2
    dtype = torch.promote_types(x_BHNK.dtype, torch.float32)  # half is too coarse for angles
    exponent = torch.arange(half, device=x_BHNK.device, dtype=dtype) / half
    angle_BNI = positions_BN[..., None].to(dtype) * spec.theta**-exponent
    cos = torch.cat([angle_BNI.cos()] * 2, dim=-1)[:, None].to(x_BHNK.dtype)
    sin = torch.cat([angle_BNI.sin()] * 2, dim=-1)[:, None].to(x_BHNK.dtype)
    turned = torch.cat([-x_BHNK[..., half:], x_BHNK[..., :half]], dim=-1)
    return x_BHNK * cos + turned * sin
