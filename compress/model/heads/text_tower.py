"""The text half of a model of two towers: a vector per text, which no rewrite touches.

B texts, N tokens, D hidden size, E width of the vectors.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from compress.model.block import Block, BlockSpec
from compress.model.embed import AnyEmbed
from compress.model.norms import NormSpec
from compress.model.projection import Projection
from compress.spec import Spec


class TextTowerSpec(Spec):
    """embed -> blocks -> norm -> one token -> W x + b. `end`: that token is the first of this id, or of the highest
    (CLIP); None takes the last, padding or not (SigLIP)."""

    hidden_size: PositiveInt
    embed: AnyEmbed
    blocks: tuple[BlockSpec, ...]
    final_norm: NormSpec
    size: PositiveInt
    bias: bool = False
    end: NonNegativeInt | Literal["highest"] | None = None

    def build(self) -> TextTower:
        return TextTower(self)


class TextTower(nn.Module):
    def __init__(self, spec: TextTowerSpec) -> None:
        super().__init__()
        self.spec = spec
        self.embed = spec.embed.build(spec.hidden_size)
        self.blocks = nn.ModuleList(block.build(spec.hidden_size) for block in spec.blocks)
        self.final_norm = spec.final_norm.build(spec.hidden_size, loops=1)
        self.output = Projection(spec.hidden_size, spec.size, bias=spec.bias)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """The vectors (B,E) of `input_ids` (B,N) with an `attention_mask` (B,N)."""
        x_BND, context = self.embed(inputs)
        for block in self.blocks:
            assert isinstance(block, Block)
            x_BND, context = block(x_BND, 0, context)
        vector_BE: Tensor = self.output(self._chosen(self.final_norm(x_BND), inputs["input_ids"]))
        return vector_BE

    def _chosen(self, x_BND: Tensor, ids_BN: Tensor) -> Tensor:
        end = self.spec.end
        if end is None:
            return x_BND[:, -1]
        sought_BN = ids_BN if end == "highest" else ids_BN.eq(end).long()
        place_B = sought_BN.argmax(dim=1)
        return torch.gather(x_BND, 1, place_B[:, None, None].expand(-1, 1, x_BND.shape[2]))[:, 0]
