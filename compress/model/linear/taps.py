"""A short causal convolution of each number of a token on its own.

B batch, N tokens, L taps, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Taps(nn.Module):
    """y_t = sum_l taps_l * x_(t - L + 1 + l) + b_loop, number by number, with zeros before the first token."""

    def __init__(self, width: int, length: int, *, bias: bool = False, loops: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, length))
        self.bias = nn.ParameterList([nn.Parameter(torch.zeros(width)) for _ in range(loops if bias else 0)])
        nn.init.trunc_normal_(self.weight, std=length**-0.5)

    def forward(self, x_BNW: Tensor, past_BLW: Tensor, loop: int) -> tuple[Tensor, Tensor]:
        """The output, and the last L - 1 tokens seen; `past`: those before these tokens."""
        seen_BMW = torch.cat([past_BLW.to(x_BNW.dtype), x_BNW], dim=1)
        bias = self.bias[loop] if len(self.bias) else None
        y_BWN = F.conv1d(seen_BMW.transpose(1, 2), self.weight[:, None], bias, groups=len(self.weight))
        return y_BWN.transpose(1, 2), seen_BMW[:, -past_BLW.shape[1] :]

    def fresh(self, x_BNW: Tensor) -> Tensor:
        """What stands before the first token: zeros."""
        return x_BNW.new_zeros(x_BNW.shape[0], *self.shape)

    @property
    def shape(self) -> tuple[int, int]:
        """Of what is kept of a sequence."""
        width, length = self.weight.shape
        return length - 1, width
