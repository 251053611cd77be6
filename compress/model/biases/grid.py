"""Learned biases of where patches lie to each other (BEiT). H heads, N tokens, P patches."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from compress.model.bias import Bias, BiasSpec


class GridBiasSpec(BiasSpec):
    """bias_hij = table[place of j seen from i, h]: a row for each step between two patches of a grid, and three for the
    class token in front: as query, as key, with itself (Bao et al. 2022, arXiv 2106.08254)."""

    kind: Literal["grid"] = "grid"
    rows: PositiveInt
    columns: PositiveInt

    @property
    def entries(self) -> int:
        """Rows of the table."""
        return (2 * self.rows - 1) * (2 * self.columns - 1) + 3

    def build(self, num_heads: int) -> GridBias:
        return GridBias(self, num_heads)


class GridBias(Bias):
    def __init__(self, spec: GridBiasSpec, num_heads: int) -> None:
        super().__init__()
        self.spec = spec
        self.table = nn.Parameter(torch.zeros(spec.entries, num_heads))

    def forward(self, q_BHNK: Tensor, k_BGMK: Tensor, past: int) -> Tensor:
        spec, device = self.spec, q_BHNK.device
        place_P = torch.arange(spec.rows * spec.columns, device=device)
        y_P, x_P = place_P // spec.columns, place_P % spec.columns
        down_PP = y_P[:, None] - y_P + spec.rows - 1
        right_PP = x_P[:, None] - x_P + spec.columns - 1
        entry_PP = down_PP * (2 * spec.columns - 1) + right_PP
        as_query_1P, as_key_P1 = (
            torch.full_like(entry_PP[:1], spec.entries - 3),
            torch.full_like(entry_PP[:, :1], spec.entries - 2),
        )
        itself_11 = torch.full_like(entry_PP[:1, :1], spec.entries - 1)
        entry_NN = torch.cat([torch.cat([itself_11, as_query_1P], 1), torch.cat([as_key_P1, entry_PP], 1)])
        return self.table[entry_NN[: q_BHNK.shape[2]]].permute(2, 0, 1)[None]
