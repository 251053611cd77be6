"""From the tokens of a sequence to one vector. B batch, N tokens, D hidden size."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from compress.model.sequence import Context

Pool = Literal["cls", "mean", "mean-sqrt", "weighted-mean", "patch-mean", "prefix-mean", "distillation", "last", "max"]


def pooled(x_BND: Tensor, pool: Pool, context: Context, prefix: int = 1) -> Tensor:
    """The vector (B,D): `cls` the first token, `distillation` the second (DeiT), `mean` all real tokens, `mean-sqrt`
    their sum over the square root of their count, `weighted-mean` the mean with each token's place, from 1, as its
    weight (SGPT), `patch-mean` all but the prefix (DINOv2), `prefix-mean` the prefix (AST), `last` the last real token
    (decoders), `max` the largest of each number over all real tokens."""
    real_BN = context.real_BN(x_BND.shape[1])
    if pool == "mean":
        return x_BND.mean(dim=1) if real_BN is None else _mean(x_BND, real_BN)
    if pool in ("mean-sqrt", "weighted-mean"):
        return _weighted(x_BND, real_BN, pool)
    if pool == "patch-mean":
        return x_BND[:, prefix:].mean(dim=1)
    if pool == "prefix-mean":
        return x_BND[:, :prefix].mean(dim=1)
    if pool == "max":
        least = torch.finfo(x_BND.dtype).min
        return (x_BND if real_BN is None else x_BND.masked_fill(~real_BN[..., None], least)).amax(dim=1)
    if pool == "last":
        return x_BND[:, -1] if real_BN is None else _last(x_BND, real_BN)
    return x_BND[:, 0 if pool == "cls" else 1]


def _mean(x_BND: Tensor, real_BN: Tensor) -> Tensor:
    share_BN1 = real_BN.to(x_BND.dtype)[..., None]
    return (x_BND * share_BN1).sum(dim=1) / share_BN1.sum(dim=1).clamp(min=1)


def _weighted(x_BND: Tensor, real_BN: Tensor | None, pool: Pool) -> Tensor:
    weight_BN = torch.ones_like(x_BND[..., 0]) if real_BN is None else real_BN.to(x_BND.dtype)
    if pool == "weighted-mean":
        weight_BN = weight_BN * torch.arange(1, x_BND.shape[1] + 1, device=x_BND.device)
    total_B1 = weight_BN.sum(dim=1, keepdim=True).clamp(min=1)
    return (x_BND * weight_BN[..., None]).sum(dim=1) / (total_B1.sqrt() if pool == "mean-sqrt" else total_B1)


def _last(x_BND: Tensor, real_BN: Tensor) -> Tensor:
    place_N = torch.arange(x_BND.shape[1], device=x_BND.device)
    last_B = torch.where(real_BN, place_N, 0).amax(dim=1)
    return x_BND.gather(1, last_B[:, None, None].expand(-1, 1, x_BND.shape[2]))[:, 0]
