"""Feature maps: what stands for the exponential in linear attention, exp(q . k) ~ phi(q) . phi(k).

B batch, N tokens, H heads, G key heads (H is a multiple of G), K query/key size, F features.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import PlainValidator
from torch import Tensor, nn

from compress.spec import AS_ITS_VARIANT, Part


class FeatureMapSpec(Part):
    kind: str

    def features(self, head_dim: int) -> int:
        """F, the number of features that a query or key of size `head_dim` gets."""
        raise NotImplementedError

    def build(self, num_heads: int, num_kv_heads: int, head_dim: int) -> FeatureMap:
        raise NotImplementedError


AnyFeatureMap = Annotated[FeatureMapSpec, PlainValidator(FeatureMapSpec.parse), AS_ITS_VARIANT]


class FeatureMap(nn.Module):
    """None of the features is negative, so that no denominator of attention can vanish between two signs. `bounded`:
    the map wants to see the keys to come before it is used."""

    bounded: ClassVar[bool] = False

    def query(self, q_BHNK: Tensor) -> Tensor:
        """phi(q) (B,H,N,F)."""
        raise NotImplementedError

    def key(self, k_BGNK: Tensor) -> Tensor:
        """phi(k) (B,G,N,F)."""
        raise NotImplementedError

    def initialize(self, generator: torch.Generator) -> None:
        """Set the weights to where training should start."""

    def see_keys(self, k_BGNK: Tensor) -> None:
        """Take in a batch of the keys to come, if the map is `bounded`."""


def per_head(x_BHNK: Tensor, weight_GKF: Tensor) -> Tensor:
    """x W with a matrix per group of heads (B,H,N,F). Matrices of three dimensions stay out of int8: what they make is
    summed up over the whole sequence."""
    batch, heads, tokens, size = x_BHNK.shape
    groups = weight_GKF.shape[0]
    x_BGTK = x_BHNK.reshape(batch, groups, heads // groups * tokens, size)
    return (x_BGTK @ weight_GKF).reshape(batch, heads, tokens, -1)
