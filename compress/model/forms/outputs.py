"""A model as a graph that gives all of its outputs, where an answer is made of several."""

from __future__ import annotations

from torch import Tensor, nn

from compress.model.transformer import Transformer


class AllOutputs(nn.Module):
    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """The outputs of the model's head, in their order."""
        return tuple(self.model.outputs(inputs).values())
