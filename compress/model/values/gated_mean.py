"""Values without a value projection: the heads' attention matrices are summed with gates and applied to the tokens.

B batch, N queries, M keys, D hidden size, H heads.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from compress.model.attention import Look, Values, ValuesSpec, probabilities
from compress.model.projection import Projection


class GatedMeanSpec(ValuesSpec):
    """z = (sum_h a_h A_h) x with a scalar gate a_h per head; y = z W + b with `projection`, else y = z + b."""

    kind: Literal["gated-mean"] = "gated-mean"
    projection: bool

    def build(self, hidden_size: int, num_heads: int, loops: int) -> GatedMean:
        return GatedMean(self, hidden_size, num_heads, loops)


class GatedMean(Values):
    def __init__(self, spec: GatedMeanSpec, hidden_size: int, num_heads: int, loops: int) -> None:
        super().__init__()
        # One head needs no gate beside a projection, which holds it already.
        gated = num_heads > 1 or not spec.projection
        self.gates = nn.ParameterList(
            [nn.Parameter(torch.full((num_heads,), 1 / num_heads)) for _ in range(loops if gated else 0)]
        )
        self.output = Projection(hidden_size, hidden_size, loops=loops) if spec.projection else None
        self.offset = nn.ParameterList(
            [nn.Parameter(torch.zeros(hidden_size)) for _ in range(0 if spec.projection else loops)]
        )

    def carry(self, x_BMD: Tensor, loop: int) -> Tensor:
        return x_BMD[:, None]

    def carried_shape(self, hidden_size: int) -> tuple[int, int]:
        return 1, hidden_size

    def mix(self, q_BHNK: Tensor, k_BGMK: Tensor, v_BGMV: Tensor, look: Look, loop: int) -> Tensor:
        p_BHNM = probabilities(q_BHNK, k_BGMK, look)
        p_BNM = (p_BHNM * self.gates[loop][:, None, None]).sum(dim=1) if len(self.gates) else p_BHNM[:, 0]
        z_BND = p_BNM @ v_BGMV[:, 0]
        return z_BND + self.offset[loop] if self.output is None else self.output(z_BND, loop)

    def readers(self) -> None:
        return None
