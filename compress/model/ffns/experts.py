"""A mixture of experts, computed densely: every expert works on every token, and a router says what counts.

B batch, N tokens, D hidden size, E experts, F size of an expert.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import PositiveInt, model_validator
from torch import Tensor

from compress.model.activations import ACTIVATIONS, ActivationName
from compress.model.ffn import Ffn, FfnSpec
from compress.model.projection import Projection


class ExpertsSpec(FfnSpec):
    """y = sum_e w_e (act(x Wg_e) * (x Wu_e)) Wd_e, w the softmax of x Wr where it is among the `chosen` largest, else
    0; with `normed` the w that are left sum to 1. The experts stand side by side in one matrix a map: all of them cost
    time for every token, whatever the router says."""

    kind: Literal["experts"] = "experts"
    count: PositiveInt
    chosen: PositiveInt
    intermediate_size: PositiveInt
    activation: ActivationName = "silu"
    normed: bool = True

    @model_validator(mode="after")
    def _there_are_as_many(self) -> ExpertsSpec:
        if self.chosen > self.count:
            raise ValueError(f"{self.chosen} experts are chosen of {self.count}")
        return self

    def build(self, hidden_size: int, loops: int) -> Experts:
        return Experts(self, hidden_size, loops)


class Experts(Ffn):
    def __init__(self, spec: ExpertsSpec, hidden_size: int, loops: int) -> None:
        super().__init__()
        self.spec = spec
        self.activation = ACTIVATIONS[spec.activation]
        width = spec.count * spec.intermediate_size
        self.router = Projection(hidden_size, spec.count, bias=False, loops=loops)
        self.gate = Projection(hidden_size, width, bias=False, loops=loops)
        self.up = Projection(hidden_size, width, bias=False, loops=loops)
        self.down = Projection(width, hidden_size, bias=False, loops=loops)

    def forward(self, x_BND: Tensor, loop: int) -> Tensor:
        hidden_BNW = self.activation(self.gate(x_BND, loop)) * self.up(x_BND, loop)
        hidden_BNEF = hidden_BNW.reshape(*hidden_BNW.shape[:2], self.spec.count, -1)
        return self.down((hidden_BNEF * self._counts(x_BND, loop)[..., None]).flatten(2), loop)

    def readers(self) -> list[Projection]:
        return [self.router, self.gate, self.up]

    def _counts(self, x_BND: Tensor, loop: int) -> Tensor:
        """How much each expert counts (B,N,E)."""
        logits_BNE = self.router(x_BND, loop)
        shares_BNE = logits_BNE.to(torch.promote_types(logits_BNE.dtype, torch.float32)).softmax(dim=-1)
        least_BN1 = shares_BNE.topk(self.spec.chosen, dim=-1).values[..., -1:]
        kept_BNE = shares_BNE * (shares_BNE >= least_BN1)
        if self.spec.normed:
            kept_BNE = kept_BNE / kept_BNE.sum(dim=-1, keepdim=True)
        return kept_BNE.to(x_BND.dtype)
