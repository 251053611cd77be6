"""The one linear map of the model: weights shared by all loops of a block, biases and deltas of each loop's own.

B batch, N tokens, I inputs, O outputs, R rank.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Projection(nn.Module):
    """y = x W^T + b_loop, with W (O x I) tied over the loops and one bias vector a loop.

    With deltas, y = x W^T + x (U_loop D_loop)^T + b_loop, U (O x R) and D (R x I), computed as (x D^T) U^T.
    Biases are a list of vectors, not a matrix, so that an exported graph reads them without a Gather; deltas likewise.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True, loops: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.ParameterList([nn.Parameter(torch.zeros(outputs)) for _ in range(loops if bias else 0)])
        nn.init.trunc_normal_(self.weight, std=0.02)
        self.delta_down, self.delta_up = nn.ParameterList(), nn.ParameterList()

    def add_deltas(self, rank: int, loops: int) -> None:
        """Give each loop a delta of this rank, or of full rank if that is less; they start at zero."""
        self.delta_down, self.delta_up = zero_product(
            self.weight.shape[1], self.weight.shape[0], min(rank, *self.weight.shape), loops
        )

    def forward(self, x_BNI: Tensor, loop: int = 0) -> Tensor:
        y_BNO = F.linear(x_BNI, self.weight, self.bias[loop] if len(self.bias) else None)
        if not len(self.delta_down):
            return y_BNO
        return y_BNO + F.linear(F.linear(x_BNI, self.delta_down[loop]), self.delta_up[loop])

    def some(self, x_BNI: Tensor, rows_U: Tensor) -> Tensor:
        """Some of the outputs (B,N,U) of the first loop, without its delta."""
        y_BNU = F.linear(x_BNI, F.embedding(rows_U, self.weight))
        return y_BNU + self.bias[0][rows_U] if len(self.bias) else y_BNU

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

    def weight_of(self, loop: int) -> Tensor:
        """The weight of a loop with its delta (O x I)."""
        if not len(self.delta_down):
            return self.weight
        return self.weight + self.delta_up[loop] @ self.delta_down[loop]

    def bias_or_zero(self, loop: int = 0) -> Tensor:
        """The bias of a loop (O,), or zeros."""
        return self.bias[loop] if len(self.bias) else self.weight.new_zeros(self.weight.shape[0])


def zero_product(inputs: int, outputs: int, rank: int, loops: int) -> tuple[nn.ParameterList, nn.ParameterList]:
    """Down (R x I) and up (O x R) a loop, whose product is zero: small noise and zeros, so that both can be learned."""
    down = nn.ParameterList([nn.Parameter(torch.empty(rank, inputs)) for _ in range(loops)])
    for one in down:
        nn.init.trunc_normal_(one, std=1e-3)
    return down, nn.ParameterList([nn.Parameter(torch.zeros(outputs, rank)) for _ in range(loops)])
