"""What tells the loops of a block apart besides biases and the gains of norms: low-rank deltas, level signals and
timestep gains. All are constants of a loop, so an exported graph holds them as plain weights.

B batch, N tokens, D hidden size, R rank.
"""

from __future__ import annotations

import torch
from pydantic import NonNegativeInt
from torch import Tensor, nn

from compress.model.projection import Projection, zero_product
from compress.spec import Spec


class PerLoopSpec(Spec):
    """`delta_rank`: every projection of the block computes x (W + A_l B_l), rank R (Relaxed Recursive Transformers,
    Bae et al. 2024, arXiv 2410.20672); `ffn_delta_rank` is another rank for those of the feed-forward.

    `signal_rank`: level signals of RingFormer (Heo et al. 2025, arXiv 2502.13181): x W + x M_l for the maps that read
    the mixer's input (Q, K, V), and x + x M_l in front of the feed-forward, M_l of rank R. They share W's input, which
    in a pre-norm block is the normed one; the paper's vision form takes the un-normed tokens there.

    `timestep`: gains of the loop index (Xu and Sato 2024, arXiv 2410.01405) as a table:
    x + a1_l * mixer(norm(x) * (1 + s1_l)), then x + a2_l * ffn(norm(x) * (1 + s2_l)); the norms' own gains are 1 + s.
    """

    delta_rank: NonNegativeInt = 0
    ffn_delta_rank: NonNegativeInt | None = None
    signal_rank: NonNegativeInt = 0
    timestep: bool = False

    @property
    def delta_ranks(self) -> tuple[int, int]:
        """Ranks of the deltas in the mixer and in the feed-forward."""
        return self.delta_rank, self.delta_rank if self.ffn_delta_rank is None else self.ffn_delta_rank


class LevelSignal(nn.Module):
    """x + x M_l with M_l = down_l up_l, D x R x D; starts as x."""

    def __init__(self, hidden_size: int, rank: int, loops: int) -> None:
        super().__init__()
        self.down, self.up = zero_product(hidden_size, hidden_size, rank, loops)

    def forward(self, x_BND: Tensor, loop: int) -> Tensor:
        return x_BND + x_BND @ self.down[loop].T @ self.up[loop].T


class OutputGain(nn.Module):
    """a_l * y; starts as y."""

    def __init__(self, hidden_size: int, loops: int) -> None:
        super().__init__()
        self.value = nn.ParameterList([nn.Parameter(torch.ones(hidden_size)) for _ in range(loops)])

    def forward(self, y_BND: Tensor, loop: int) -> Tensor:
        return y_BND * self.value[loop]


def add_deltas(half: nn.Module, rank: int, loops: int) -> None:
    """Give every projection of half a block deltas of that rank."""
    for module in half.modules():
        if isinstance(module, Projection):
            module.add_deltas(rank, loops)
