"""Boxes around objects. B batch, N tokens, Q queries, D hidden size, C classes."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar, Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from compress.model.embed import Embed
from compress.model.head import Head, HeadSpec
from compress.model.projection import Projection
from compress.model.sequence import Context


class BoxesSpec(HeadSpec):
    """One object for each of `queries` tokens, which stand behind the `first` ones: scores of the classes and, last, of
    there being none, and where it lies (centre, width and height as shares of the image), each through a perceptron of
    `layers` maps (YOLOS, Fang et al. 2021, arXiv 2106.00666)."""

    kind: Literal["boxes"] = "boxes"
    num_labels: PositiveInt
    queries: PositiveInt
    first: NonNegativeInt = 1
    layers: PositiveInt = 3

    @property
    def tokens(self) -> int:
        return self.first + self.queries

    def build(self, hidden_size: int) -> Boxes:
        return Boxes(self, hidden_size)


class Boxes(Head):
    outputs: ClassVar[tuple[str, ...]] = ("logits", "pred_boxes")

    def __init__(self, spec: BoxesSpec, hidden_size: int) -> None:
        super().__init__()
        self.first, self.tokens = spec.first, spec.tokens
        self.classes = _perceptron(hidden_size, spec.num_labels + 1, spec.layers)
        self.places = _perceptron(hidden_size, 4, spec.layers)

    def select(self, x_BND: Tensor) -> Tensor:
        return x_BND[:, self.first : self.tokens]

    def answer(self, outputs: dict[str, Tensor]) -> Tensor:
        """Scores and places side by side (B,Q,C+1+4)."""
        return torch.cat([outputs[name] for name in self.outputs], dim=-1)

    def forward(self, x_BND: Tensor, context: Context, embed: Embed) -> dict[str, Tensor]:
        return {"logits": _through(self.classes, x_BND), "pred_boxes": _through(self.places, x_BND).sigmoid()}


def _perceptron(hidden_size: int, size: int, layers: int) -> nn.ModuleList:
    sizes = [hidden_size] * layers + [size]
    return nn.ModuleList(Projection(given, out, bias=True) for given, out in pairwise(sizes))


def _through(layers: nn.ModuleList, x_BQD: Tensor) -> Tensor:
    for layer in layers[:-1]:
        x_BQD = F.relu(layer(x_BQD))
    given: Tensor = layers[-1](x_BQD)
    return given
