"""Two ways to carry values at once, one fading into the other while a model heals."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from compress.model.attention import AnyValues, Look, Values, ValuesSpec
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

    def carry(self, x_BMD: Tensor, loop: int) -> Tensor:
        return x_BMD[:, None]  # each half makes of it what it carries

    def carried_shape(self, hidden_size: int) -> tuple[int, int]:
        return 1, hidden_size

    def mix(self, q_BHNK: Tensor, k_BGMK: Tensor, v_BGMV: Tensor, look: Look, loop: int) -> Tensor:
        old_BND = self.old(q_BHNK, k_BGMK, v_BGMV[:, 0], look, loop)
        new_BND = self.new(q_BHNK, k_BGMK, v_BGMV[:, 0], look, loop)
        dtype = old_BND.dtype  # under autocast one half may come in half precision and the other not
        return torch.lerp(old_BND, new_BND.to(dtype), self.share.to(dtype))

    def readers(self) -> list[Projection] | None:
        old, new = self.old.readers(), self.new.readers()
        return None if old is None or new is None else old + new
