"""Depth of each pixel, from what leaves several blocks.

B batch, N tokens, D hidden size, C channels, Y and X height and width.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from compress.model.embed import Embed
from compress.model.heads.neck import Neck, NeckSpec, convolution, enlarged
from compress.model.sequence import Context


class DepthSpec(NeckSpec):
    """Depth by the neck and head of DPT. `size` of the answer, where each sum grows to the size of the next picture
    (Depth Anything); None: each is twice as large as the one before (DPT). `most`: the answer is a share of it; None:
    any number from 0 on."""

    kind: Literal["depth"] = "depth"
    hidden: PositiveInt
    projection: bool = False
    size: tuple[PositiveInt, PositiveInt] | None = None
    most: PositiveFloat | None = None

    def build(self, hidden_size: int) -> Depth:
        return Depth(self, hidden_size)


class Depth(Neck):
    outputs: ClassVar[tuple[str, ...]] = ("predicted_depth",)

    def __init__(self, spec: DepthSpec, hidden_size: int) -> None:
        super().__init__(spec, hidden_size)
        self.spec = spec
        self.projection = convolution(spec.fusion, spec.fusion) if spec.projection else None
        self.first = convolution(spec.fusion, spec.fusion // 2)
        self.second = convolution(spec.fusion // 2, spec.hidden)
        self.output = nn.Conv2d(spec.hidden, 1, 1)

    def forward(self, x_BND: Tensor, context: Context, embed: Embed) -> dict[str, Tensor]:
        """`x`: the tokens of the tapped layers, behind each other."""
        fused_BCYX = self.fused(x_BND, follows=self.spec.size is not None)
        if self.projection is not None:
            fused_BCYX = F.relu(self.projection(fused_BCYX))
        x_BCYX = F.relu(self.second(enlarged(self.first(fused_BCYX), self.spec.size)))
        depth_BYX = self.output(x_BCYX).squeeze(1)
        most = self.spec.most
        return {"predicted_depth": F.relu(depth_BYX) if most is None else depth_BYX.sigmoid() * most}
