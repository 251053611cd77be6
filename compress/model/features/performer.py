"""The random features of Performer. G key heads, K query/key size, F features."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from compress.model.linear.feature import FeatureMap, FeatureMapSpec, per_head

#: Exponents beyond the offset that keys may reach before they are cut off: far from where FP32 ends.
HEADROOM = 30.0


class PerformerSpec(FeatureMapSpec):
    """phi(x) = exp(x W^T - |x|^2 / 2 - c), W (F x K) frozen with block-orthogonal rows of the norms that Gaussian
    rows have (FAVOR+, Choromanski et al. 2020, arXiv 2009.14794). c cancels out of attention: for queries it is the
    row's largest exponent, for keys a constant bound from calibration, since a bound that changes as the sequence
    goes on would spoil the sums made before. `size`: K ln K if not given."""

    kind: Literal["performer"] = "performer"
    size: PositiveInt | None = None

    def features(self, head_dim: int) -> int:
        return self.size or max(1, round(head_dim * math.log(head_dim)))

    def build(self, num_heads: int, num_kv_heads: int, head_dim: int) -> Performer:
        return Performer(num_kv_heads, head_dim, self.features(head_dim))


class Performer(FeatureMap):
    bounded = True
    rows_1KF: Tensor
    bound_G: Tensor

    def __init__(self, num_kv_heads: int, head_dim: int, size: int) -> None:
        super().__init__()
        self.register_buffer("rows_1KF", torch.zeros(1, head_dim, size))
        self.register_buffer("bound_G", torch.zeros(num_kv_heads))

    def query(self, q_BHNK: Tensor) -> Tensor:
        exponent_BHNF = self._exponent(q_BHNK)
        return (exponent_BHNF - exponent_BHNF.amax(dim=-1, keepdim=True)).exp()

    def key(self, k_BGNK: Tensor) -> Tensor:
        return (self._exponent(k_BGNK) - self.bound_G[:, None, None]).clamp(max=HEADROOM).exp()

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        _, head_dim, size = self.rows_1KF.shape
        blocks = []
        for _ in range(math.ceil(size / head_dim)):
            square = torch.randn(head_dim, head_dim, generator=generator, dtype=torch.float64)
            blocks.append(torch.linalg.qr(square).Q)
        norms_F1 = torch.randn(size, head_dim, generator=generator, dtype=torch.float64).norm(dim=1, keepdim=True)
        self.rows_1KF.copy_((torch.cat(blocks)[:size] * norms_F1).T[None])
        self.bound_G.fill_(-torch.inf)

    @torch.no_grad()
    def see_keys(self, k_BGNK: Tensor) -> None:
        torch.maximum(self.bound_G, self._exponent(k_BGNK).amax(dim=(0, 2, 3)), out=self.bound_G)

    def _exponent(self, x_BHNK: Tensor) -> Tensor:
        return per_head(x_BHNK, self.rows_1KF) - x_BHNK.square().sum(dim=-1, keepdim=True) / 2
