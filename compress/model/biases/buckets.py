"""Learned biases of distances in buckets (T5, MPNet). H heads, N queries, M keys."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from compress.model.bias import Bias, BiasSpec, ahead


class BucketBiasSpec(BiasSpec):
    """bias_hij = table[bucket(j - i), h]: near distances have a bucket each, far ones share one by their logarithm,
    those from `max_distance` on the last (Raffel et al. 2020, arXiv 1910.10683). `both_ways`: half of the buckets are
    for keys ahead; else those ahead count as no distance."""

    kind: Literal["buckets"] = "buckets"
    buckets: PositiveInt = 32
    max_distance: PositiveInt = 128
    both_ways: bool = True

    def build(self, num_heads: int) -> BucketBias:
        return BucketBias(self, num_heads)

    def bucket_of(self) -> list[int]:
        """The bucket of each distance from 0 to `max_distance`, on one side."""
        count = self.buckets // 2 if self.both_ways else self.buckets
        near = count // 2
        distance = torch.arange(self.max_distance + 1)
        # In fp32 as the original does: at the bounds of buckets the rounding decides.
        share = torch.log(distance.clamp(min=1).float() / near) / math.log(self.max_distance / near)
        far = (near + (share * (count - near)).long()).clamp(max=count - 1)
        chosen: list[int] = torch.where(distance < near, distance, far).tolist()
        return chosen


class BucketBias(Bias):
    def __init__(self, spec: BucketBiasSpec, num_heads: int) -> None:
        super().__init__()
        self.spec = spec
        self.table = nn.Parameter(torch.zeros(spec.buckets, num_heads))

    def forward(self, q_BHNK: Tensor, k_BGMK: Tensor, past: int) -> Tensor:
        ahead_NM = ahead(q_BHNK, k_BGMK, past)
        bucket_D = torch.tensor(self.spec.bucket_of(), device=q_BHNK.device)
        if self.spec.both_ways:
            bucket_NM = bucket_D[ahead_NM.abs().clamp(max=self.spec.max_distance)]
            bucket_NM = bucket_NM + (ahead_NM > 0).long() * (self.spec.buckets // 2)
        else:
            bucket_NM = bucket_D[(-ahead_NM).clamp(min=0, max=self.spec.max_distance)]
        return self.table[bucket_NM].permute(2, 0, 1)[None]
