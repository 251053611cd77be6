"""Biases that fall with the distance (ALiBi). H heads."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from compress.model.bias import Bias, BiasSpec, ahead


class AlibiBiasSpec(BiasSpec):
    """bias_hij = slope_h (j - i) with slopes 2^(-8 h / H) (Press et al. 2022, arXiv 2108.12409); for a number of heads
    that is not a power of two, the rest takes every second slope of twice as many."""

    kind: Literal["alibi"] = "alibi"

    def build(self, num_heads: int) -> AlibiBias:
        return AlibiBias(num_heads)


class AlibiBias(Bias):
    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.slopes = slopes(num_heads)

    def forward(self, q_BHNK: Tensor, k_BGMK: Tensor, past: int) -> Tensor:
        slope_H11 = torch.tensor(self.slopes, device=q_BHNK.device, dtype=q_BHNK.dtype)[:, None, None]
        return slope_H11 * ahead(q_BHNK, k_BGMK, past).to(q_BHNK.dtype)


def slopes(num_heads: int) -> list[float]:
    """The slope of each head."""
    whole = 2 ** math.floor(math.log2(num_heads))
    first = [2 ** (-8 * (head + 1) / whole) for head in range(whole)]
    return first + [2 ** (-4 * (2 * head + 1) / whole) for head in range(num_heads - whole)]
