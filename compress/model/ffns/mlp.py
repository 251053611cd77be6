"""The two-layer perceptron of the original transformer. F intermediate size."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt
from torch import Tensor

from compress.model.activations import ACTIVATIONS, ActivationName
from compress.model.ffn import Ffn, FfnSpec
from compress.model.projection import Projection


class MlpSpec(FfnSpec):
    """y = act(x W1 + b1) W2 + b2."""

    kind: Literal["mlp"] = "mlp"
    intermediate_size: PositiveInt
    activation: ActivationName = "gelu"
    bias: bool = True

    def build(self, hidden_size: int, loops: int) -> Mlp:
        return Mlp(self, hidden_size, loops)


class Mlp(Ffn):
    def __init__(self, spec: MlpSpec, hidden_size: int, loops: int) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[spec.activation]
        self.up = Projection(hidden_size, spec.intermediate_size, bias=spec.bias, loops=loops)
        self.down = Projection(spec.intermediate_size, hidden_size, bias=spec.bias, loops=loops)

    def forward(self, x_BND: Tensor, loop: int) -> Tensor:
        return self.down(self.hidden(x_BND, loop), loop)

    def hidden(self, x_BND: Tensor, loop: int) -> Tensor:
        """What the last map reads (B,N,F)."""
        return self.activation(self.up(x_BND, loop))

    def readers(self) -> list[Projection]:
        return [self.up]
