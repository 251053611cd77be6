"""Two ways to carry values at once, one fading into the other while a model heals."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from compress.model.attention import AnyValues, Values, ValuesSpec
from compress.model.projection import Projection


class BlendedSpec(ValuesSpec):
    """y = (1 - t) old(x) + t new(x); healing moves t from 0 to 1 and then leaves `new` alone."""

    kind: Literal["blended"] = "blended"
    old: AnyValues
    new: AnyValues

    def build(self, hidden_size: int, num_heads: int, loops: int) -> Blended:
        return Blended(self, hidden_size, num_heads, loops)


class Blended(Values):
    share: Tensor

    def __init__(self, spec: BlendedSpec, hidden_size: int, num_heads: int, loops: int) -> None:
        super().__init__()
        self.old = spec.old.build(hidden_size, num_heads, loops)
        self.new = spec.new.build(hidden_size, num_heads, loops)
        self.register_buffer("share", torch.zeros(()))

    def forward(self, q_BHNK: Tensor, k_BGMK: Tensor, x_BMD: Tensor, mask_BHNM: Tensor | None, loop: int) -> Tensor:
        old_BND = self.old(q_BHNK, k_BGMK, x_BMD, mask_BHNM, loop)
        return torch.lerp(old_BND, self.new(q_BHNK, k_BGMK, x_BMD, mask_BHNM, loop), self.share.to(old_BND.dtype))

    def readers(self) -> list[Projection] | None:
        old, new = self.old.readers(), self.new.readers()
        return None if old is None or new is None else old + new
