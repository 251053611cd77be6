"""The one linear map of the model: weights shared by all loops of a block, biases of each loop's own.

B batch, N tokens, I inputs, O outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Projection(nn.Module):
    """y = x W^T + b_loop, with W (O x I) tied over the loops and one bias vector a loop.

    Biases are a list of vectors, not a matrix, so that an exported graph reads them without a Gather.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True, loops: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.ParameterList([nn.Parameter(torch.zeros(outputs)) for _ in range(loops if bias else 0)])
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, x_BNI: Tensor, loop: int = 0) -> Tensor:
        return F.linear(x_BNI, self.weight, self.bias[loop] if len(self.bias) else None)

    @torch.no_grad()
    def set(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> None:
        """Copy in a weight and, to every loop, a bias; raises ValueError if the shapes differ or a bias is
        missing or too many."""
        if weight_OI.shape != self.weight.shape or (bias_O is not None) != bool(len(self.bias)):
            raise ValueError(
                f"cannot set a projection of {tuple(self.weight.shape)}, biases {len(self.bias)}, "
                f"from {tuple(weight_OI.shape)}, bias {None if bias_O is None else tuple(bias_O.shape)}"
            )
        self.weight.copy_(weight_OI)
        for bias in self.bias:
            assert bias_O is not None
            bias.copy_(bias_O)

    def bias_or_zero(self, loop: int = 0) -> Tensor:
        """The bias of a loop (O,), or zeros."""
        return self.bias[loop] if len(self.bias) else self.weight.new_zeros(self.weight.shape[0])
