"""Biases that queries and keys have with places (DeBERTa). H heads, N queries, M keys, K head size, S places."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from compress.model.bias import Bias, BiasSpec, ahead


class DisentangledBiasSpec(BiasSpec):
    """bias_hij = q_hi . key_h[s] + k_hj . query_h[s], s the place of j seen from i; q comes scaled, and so must query_h
    be (He et al. 2021, arXiv 2006.03654). Places are `span` on each side: distances, or with `max_distance`, distances
    up to span / 2 and logarithmic buckets of those up to `max_distance`."""

    kind: Literal["disentangled"] = "disentangled"
    reads_content: ClassVar[bool] = True
    head_dim: PositiveInt
    span: PositiveInt
    max_distance: PositiveInt | None = None

    def build(self, num_heads: int) -> DisentangledBias:
        return DisentangledBias(self, num_heads)

    def bucket_of(self) -> list[int]:
        """How far each distance from 0 counts, up to that from which all count alike."""
        if self.max_distance is None:
            return list(range(self.span + 1))
        distance, near = torch.arange(self.max_distance + 1), self.span // 2
        # In fp32 as the original does: at the bounds of buckets the rounding decides.
        share = torch.log(distance.clamp(min=near) / near) / torch.log(torch.tensor((self.max_distance - 1) / near))
        far = torch.ceil(share * (near - 1)) + near
        chosen: list[int] = torch.where(distance <= near, distance, far.long()).tolist()
        return chosen


class DisentangledBias(Bias):
    def __init__(self, spec: DisentangledBiasSpec, num_heads: int) -> None:
        super().__init__()
        self.spec = spec
        self.key_HSK = nn.Parameter(torch.zeros(num_heads, 2 * spec.span, spec.head_dim))
        self.query_HSK = nn.Parameter(torch.zeros(num_heads, 2 * spec.span, spec.head_dim))

    def forward(self, q_BHNK: Tensor, k_BGMK: Tensor, past: int) -> Tensor:
        behind_NM, span = -ahead(q_BHNK, k_BGMK, past), self.spec.span
        bucket_D = torch.tensor(self.spec.bucket_of(), device=q_BHNK.device)
        far_NM = bucket_D[behind_NM.abs().clamp(max=len(bucket_D) - 1)] * behind_NM.sign()
        place_NM = (far_NM + span).clamp(0, 2 * span - 1)
        seen_BHNS, felt_BHMS = q_BHNK @ self.key_HSK.transpose(1, 2), k_BGMK @ self.query_HSK.transpose(1, 2)
        shape = (*q_BHNK.shape[:2], *place_NM.shape)
        seen_BHNM = seen_BHNS.gather(3, place_NM.expand(shape))
        felt_BHMN = felt_BHMS.gather(3, place_NM.T.expand(*shape[:2], shape[3], shape[2]))
        return seen_BHNM + felt_BHMN.transpose(2, 3)
