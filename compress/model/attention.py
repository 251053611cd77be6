"""Softmax attention in two halves: `Scores` says who looks at whom, `Values` says what is carried over.

B batch, N queries, M keys, H heads, G key/value heads (H is a multiple of G), K query/key size, V value size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import PlainValidator, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from compress.model.projection import Projection
from compress.model.sequence import Context
from compress.spec import AS_ITS_VARIANT, Part


@dataclass(frozen=True)
class Look:
    """Who looks at whom: rows are softmax(cap tanh(q k^T / cap) + bias), over the keys where the mask (1 or B, 1, 1 or
    N, M) is True. `bias`: (1 or B, H, N, M). What is None changes nothing."""

    mask: Tensor | None = None
    bias: Tensor | None = None
    cap: float | None = None

    def applied(self, logits_BHNM: Tensor) -> Tensor:
        """What the softmax gets (B,H,N,M)."""
        if self.cap is not None:
            logits_BHNM = (logits_BHNM / self.cap).tanh() * self.cap
        if self.bias is not None:
            logits_BHNM = logits_BHNM + self.bias
        if self.mask is None:
            return logits_BHNM
        return logits_BHNM.masked_fill(~self.mask, torch.finfo(logits_BHNM.dtype).min)

    def added(self, dtype: torch.dtype) -> Tensor | None:
        """Mask and bias as scaled_dot_product_attention wants them, with `dtype` of queries."""
        if self.bias is None:
            return self.mask
        bias = self.bias.to(dtype)
        return bias if self.mask is None else bias.masked_fill(~self.mask, torch.finfo(dtype).min)


class ScoresSpec(Part):
    kind: str
    num_heads: PositiveInt

    @property
    def key_heads(self) -> int:
        """How many heads the keys have."""
        return self.num_heads

    def build(self, hidden_size: int, loops: int) -> Scores:
        raise NotImplementedError


AnyScores = Annotated[ScoresSpec, PlainValidator(ScoresSpec.parse), AS_ITS_VARIANT]


class Scores(nn.Module):
    def forward(self, x_BND: Tensor, loop: int, context: Context) -> tuple[Tensor, Tensor]:
        """Queries (B,H,N,K), already scaled, and keys (B,G,N,K): the logits are their plain dot products."""
        raise NotImplementedError

    def key_shape(self, hidden_size: int) -> tuple[int, int]:
        """G and K of the keys."""
        raise NotImplementedError

    def readers(self) -> list[Projection] | None:
        """See `Mixer.readers`."""
        raise NotImplementedError


class ValuesSpec(Part):
    kind: str

    def build(self, hidden_size: int, num_heads: int, loops: int) -> Values:
        raise NotImplementedError


AnyValues = Annotated[ValuesSpec, PlainValidator(ValuesSpec.parse), AS_ITS_VARIANT]


class Values(nn.Module):
    def forward(self, q_BHNK: Tensor, k_BGMK: Tensor, x_BMD: Tensor, look: Look, loop: int) -> Tensor:
        """The mixed tokens (B,N,D)."""
        return self.mix(q_BHNK, k_BGMK, self.carry(x_BMD, loop), look, loop)

    def carry(self, x_BMD: Tensor, loop: int) -> Tensor:
        """What of each token is carried over, (B,G,M,V): what a decoder caches."""
        raise NotImplementedError

    def mix(self, q_BHNK: Tensor, k_BGMK: Tensor, v_BGMV: Tensor, look: Look, loop: int) -> Tensor:
        """The mixed tokens (B,N,D) from what `carry` gave."""
        raise NotImplementedError

    def carried_shape(self, hidden_size: int) -> tuple[int, int]:
        """G and V of `carry`."""
        raise NotImplementedError

    def readers(self) -> list[Projection] | None:
        """See `Mixer.readers`."""
        raise NotImplementedError


def split_heads(x_BNHK: Tensor, num_heads: int) -> Tensor:
    """(B, N, H*K) -> (B, H, N, K)."""
    batch, tokens, width = x_BNHK.shape
    return x_BNHK.reshape(batch, tokens, num_heads, width // num_heads).transpose(1, 2)


def join_heads(x_BHNK: Tensor) -> Tensor:
    """(B, H, N, K) -> (B, N, H*K)."""
    batch, heads, tokens, size = x_BHNK.shape
    return x_BHNK.transpose(1, 2).reshape(batch, tokens, heads * size)


def probabilities(q_BHNK: Tensor, k_BGMK: Tensor, look: Look, scale: float = 1.0) -> Tensor:
    """Attention rows softmax(scale q k^T), as `look` says (B,H,N,M)."""
    logits_BHNM = per_group(q_BHNK, k_BGMK.transpose(-1, -2))
    if scale != 1.0:
        logits_BHNM = logits_BHNM * scale  # after the product: runtimes fold it into the product itself
    return look.applied(logits_BHNM).softmax(dim=-1)


def per_group(x_BHNK: Tensor, y_BGKV: Tensor) -> Tensor:
    """x y with the matrix of each head's group (B,H,N,V), without a copy of it per head: a cache stays as it is."""
    batch, heads, rows, size = x_BHNK.shape
    groups = y_BGKV.shape[1]
    if groups == heads:
        return x_BHNK @ y_BGKV
    stacked = x_BHNK.reshape(batch, groups, heads // groups * rows, size) @ y_BGKV
    return stacked.reshape(batch, heads, rows, -1)


def attend(q_BHNK: Tensor, k_BGMK: Tensor, v_BGMV: Tensor, look: Look, scale: float = 1.0) -> Tensor:
    """softmax(scale q k^T) v for every head (B,H,N,V)."""
    heads = q_BHNK.shape[1]
    if torch.compiler.is_exporting() or look.cap is not None:
        # Plain products: the exporter's own decomposition scales queries and keys separately and adds reshapes.
        return per_group(probabilities(q_BHNK, k_BGMK, look, scale), v_BGMV)
    k_BHMK, v_BHMV = _per_query_head(k_BGMK, heads), _per_query_head(v_BGMV, heads)
    return F.scaled_dot_product_attention(q_BHNK, k_BHMK, v_BHMV, attn_mask=look.added(q_BHNK.dtype), scale=scale)


def attention_mask(
    context: Context, tokens: int, causal: bool, device: torch.device, past: int = 0, window: int | None = None
) -> Tensor | None:
    """True where a query (row) may look at a key (column): (1 or B, 1, 1 or rows, past + N), or None for everywhere.
    `window`: a causal query sees this many tokens, itself the last; one that looks ahead sees as many on each side."""
    mask = None if context.mask_BM is None else context.mask_BM[:, None, None, :].bool()
    if not causal and window is None:
        return mask
    query_N1 = torch.arange(past, past + tokens, device=device)[: context.rows, None]
    key_M = torch.arange(past + tokens, device=device)
    near_NM = key_M <= query_N1 if causal else (key_M - query_N1).abs() <= (window or 0)
    if causal and window is not None:
        near_NM = near_NM & (key_M > query_N1 - window)
    if mask is None:
        return near_NM[None, None]
    # Padding far from all real tokens sees itself: a row that sees nothing is another number on every runtime.
    return mask & near_NM if causal else mask & near_NM | (key_M == query_N1)


def grown(cache_BGPK: Tensor, new_BGNK: Tensor) -> Tensor:
    """A cache with the new tokens behind the old ones (B,G,P+N,K), in the cache's own type."""
    return torch.cat([cache_BGPK, new_BGNK.to(cache_BGPK.dtype)], dim=2)


def _per_query_head(x_BGMK: Tensor, num_heads: int) -> Tensor:
    """Repeat each key/value head for the query heads that share it."""
    groups = x_BGMK.shape[1]
    if groups == num_heads:
        return x_BGMK
    return x_BGMK.repeat_interleave(num_heads // groups, dim=1)
