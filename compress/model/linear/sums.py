"""The sums of linear attention, shared by its mixers: always in FP32, since a running sum in 16 bits stops taking in
tokens after some two thousand of them.

B batch, N tokens (R <= N of them are asked), H heads, G key heads, F features, V value size, W width of what is summed,
C tokens of a span, T spans of a sequence, A = B T.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.nn import functional as F

from compress.model.attention import per_group

#: Tokens that see each other pair by pair; what lies before them is a sum.
SPAN = 64


def wide(x: Tensor) -> Tensor:
    """In FP32, or FP64 if that is what it is in."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def in_full(device: torch.device) -> AbstractContextManager[object]:
    """No autocast inside: products of FP32 tensors stay in FP32."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()


def with_ones(v_BGNV: Tensor) -> Tensor:
    """Values with a one behind each: summed along, it becomes the denominator."""
    return torch.cat([v_BGNV, torch.ones_like(v_BGNV[..., :1])], dim=-1)


def divided(sums_BHNW: Tensor, eps: float) -> Tensor:
    """Numerators over the last column, the denominator, which is taken for `eps` where it is less."""
    return sums_BHNW[..., :-1] / sums_BHNW[..., -1:].clamp(min=eps)


def only_real(k_BGNF: Tensor, real_BN: Tensor | None) -> Tensor:
    """Features of keys with those of padding set to zero, so that it adds nothing to any sum."""
    return k_BGNF if real_BN is None else k_BGNF * real_BN[:, None, :, None].to(k_BGNF.dtype)


def whole_sums(q_BHRF: Tensor, k_BGNF: Tensor, v_BGNW: Tensor) -> Tensor:
    """sum_j (q_i . k_j) v_j over all tokens (B,H,R,W), in a time linear in N."""
    return per_group(q_BHRF, k_BGNF.transpose(-1, -2) @ v_BGNW)


def causal_sums(q_BHRF: Tensor, k_BGNF: Tensor, v_BGNW: Tensor, past_BGFW: Tensor) -> tuple[Tensor, Tensor]:
    """sum_{j <= i} (q_i . k_j) v_j + q_i past (B,H,R,W), and the past of the next chunk, past + sum_j k_j v_j^T."""
    weights_BHRN = causal_products(q_BHRF, k_BGNF)
    sums_BHRW = per_group(weights_BHRN, v_BGNW) + per_group(q_BHRF, past_BGFW)
    return sums_BHRW, past_BGFW + k_BGNF.transpose(-1, -2) @ v_BGNW


def spanned_sums(q_BHNF: Tensor, k_BGNF: Tensor, v_BGNW: Tensor) -> Tensor:
    """`causal_sums` from nothing, for whole sequences in a time and memory linear in N: all spans at once."""
    batch, _, tokens, _ = q_BHNF.shape
    q_AHCF, k_AGCF, v_AGCW = (spans(x) for x in (q_BHNF, k_BGNF, v_BGNW))
    sums_AHCW, _ = causal_sums(q_AHCF, k_AGCF, v_AGCW, before_spans(k_AGCF, v_AGCW, batch))
    return joined(sums_AHCW, batch, tokens)


def spans(x_BHNF: Tensor, before: int = 0) -> Tensor:
    """Sequences cut into spans, each a sequence of its own (A,H,C,F), the last filled up with zeros. With `before`, the
    first tokens belong to no span but in front, and each span has as many in front of it (A,H,before+C,F)."""
    _, heads, tokens, size = x_BHNF.shape
    span = min(SPAN, tokens - before)
    missing = -(tokens - before) % span
    x_BHNF = F.pad(x_BHNF, (0, 0, 0, missing))
    cut_BHTFC = x_BHNF.unfold(2, span + before, span)
    return cut_BHTFC.permute(0, 2, 1, 4, 3).reshape(-1, heads, span + before, size)


def joined(x_AHCW: Tensor, batch: int, tokens: int) -> Tensor:
    """Whole sequences again (B,H,N,W), without what filled up the last span."""
    _, heads, span, size = x_AHCW.shape
    x_BHTCW = x_AHCW.reshape(batch, -1, heads, span, size).transpose(1, 2)
    return x_BHTCW.reshape(batch, heads, -1, size)[:, :, :tokens]


def before_spans(k_AGCF: Tensor, v_AGCW: Tensor, batch: int) -> Tensor:
    """For each span the sum of k v^T over all spans before it in its sequence (A,G,F,W)."""
    sums_AGFW = k_AGCF.transpose(-1, -2) @ v_AGCW
    sums_BTGFW = sums_AGFW.reshape(batch, -1, *sums_AGFW.shape[1:])
    before_BTGFW = sums_BTGFW[:, :-1].cumsum(dim=1)  # subtracting a span's own from its total would cancel digits
    return torch.cat([torch.zeros_like(sums_BTGFW[:, :1]), before_BTGFW], dim=1).reshape(sums_AGFW.shape)


def causal_products(q_BHRF: Tensor, k_BGNF: Tensor) -> Tensor:
    """q_i . k_j where j <= i, else 0 (B,H,R,N)."""
    products_BHRN = per_group(q_BHRF, k_BGNF.transpose(-1, -2))
    row_R1 = torch.arange(q_BHRF.shape[2], device=q_BHRF.device)[:, None]
    earlier_RN = torch.arange(k_BGNF.shape[2], device=q_BHRF.device) <= row_R1
    return products_BHRN * earlier_RN.to(products_BHRN.dtype)
