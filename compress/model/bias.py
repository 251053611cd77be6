"""What is added to attention logits for where query and key stand.

B batch, N queries, M keys, H heads, G key heads, K query/key size.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import PlainValidator
from torch import Tensor, nn

from compress.spec import AS_ITS_VARIANT, Part


class BiasSpec(Part):
    """`reads_content`: whether it depends on queries and keys, beside where they stand."""

    kind: str
    reads_content: ClassVar[bool] = False

    def build(self, num_heads: int) -> Bias:
        raise NotImplementedError


AnyBias = Annotated[BiasSpec, PlainValidator(BiasSpec.parse), AS_ITS_VARIANT]


class Bias(nn.Module):
    def forward(self, q_BHNK: Tensor, k_BGMK: Tensor, past: int) -> Tensor:
        """What is added (1 or B, H, N, M) for scaled queries, the first of which stands behind `past` keys."""
        raise NotImplementedError


def ahead(q_BHNK: Tensor, k_BGMK: Tensor, past: int) -> Tensor:
    """How far ahead of each query each key stands (N,M)."""
    query_N = torch.arange(past, past + q_BHNK.shape[2], device=q_BHNK.device)
    return torch.arange(k_BGMK.shape[2], device=q_BHNK.device) - query_N[:, None]
