"""The gated two-layer perceptron of Llama (SwiGLU). F intermediate size."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt
from torch import Tensor

from compress.model.activations import ACTIVATIONS, ActivationName
from compress.model.ffn import Ffn, FfnSpec
from compress.model.norms import NormSpec
from compress.model.projection import Projection


class GatedMlpSpec(FfnSpec):
    """y = (act(x Wg + bg) * (x Wu + bu)) Wd + bd (Shazeer 2020, arXiv 2002.05202). `bias`: of gate and up;
    `output_bias`: of down; `norm`: of what is in the brackets (Wang et al. 2022, arXiv 2210.06423)."""

    kind: Literal["gated-mlp"] = "gated-mlp"
    intermediate_size: PositiveInt
    activation: ActivationName = "silu"
    bias: bool = False
    output_bias: bool = False
    norm: NormSpec | None = None

    def build(self, hidden_size: int, loops: int) -> GatedMlp:
        return GatedMlp(self, hidden_size, loops)


class GatedMlp(Ffn):
    def __init__(self, spec: GatedMlpSpec, hidden_size: int, loops: int) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[spec.activation]
        self.gate = Projection(hidden_size, spec.intermediate_size, bias=spec.bias, loops=loops)
        self.up = Projection(hidden_size, spec.intermediate_size, bias=spec.bias, loops=loops)
        self.down = Projection(spec.intermediate_size, hidden_size, bias=spec.output_bias, loops=loops)
        self.norm = spec.norm.build(spec.intermediate_size, loops) if spec.norm else None

    def forward(self, x_BND: Tensor, loop: int) -> Tensor:
        return self.down(self.hidden(x_BND, loop), loop)

    def hidden(self, x_BND: Tensor, loop: int) -> Tensor:
        """What the last map reads (B,N,F)."""
        hidden_BNF = self.activation(self.gate(x_BND, loop)) * self.up(x_BND, loop)
        return hidden_BNF if self.norm is None else self.norm(hidden_BNF, loop)

    def readers(self) -> list[Projection]:
        return [self.gate, self.up]
