"""A map of each keypoint: how likely it lies where.

B batch, N tokens, D hidden size, C channels or keypoints, Y and X height and width.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from compress.model.embed import Embed
from compress.model.head import Head, HeadSpec
from compress.model.sequence import Context


class KeypointsSpec(HeadSpec):
    """Maps of `keypoints` by ViTPose (Xu et al. 2022, arXiv 2204.12484) from patches in the rows and columns of `grid`.
    `scale`: how much larger than it they are, by the simple decoder; None: 4 times by the classic one, two transposed
    convolutions of `channels`."""

    each_token: ClassVar[bool] = True
    kind: Literal["keypoints"] = "keypoints"
    keypoints: PositiveInt
    grid: tuple[PositiveInt, PositiveInt]
    scale: PositiveInt | None = 4
    channels: PositiveInt = 256

    def build(self, hidden_size: int) -> Keypoints:
        return Keypoints(self, hidden_size)


class Keypoints(Head):
    outputs: ClassVar[tuple[str, ...]] = ("heatmaps",)

    def __init__(self, spec: KeypointsSpec, hidden_size: int) -> None:
        super().__init__()
        self.spec = spec
        self.larger = nn.ModuleList()
        if spec.scale is None:
            sizes = ((hidden_size, spec.channels), (spec.channels, spec.channels))
            self.larger.extend(nn.ConvTranspose2d(*size, 4, stride=2, padding=1) for size in sizes)
            self.output = nn.Conv2d(spec.channels, spec.keypoints, 1)
        else:
            self.output = nn.Conv2d(hidden_size, spec.keypoints, 3, padding=1)

    def forward(self, x_BND: Tensor, context: Context, embed: Embed) -> dict[str, Tensor]:
        x_BCYX = x_BND.transpose(1, 2).reshape(-1, x_BND.shape[2], *self.spec.grid)
        for each in self.larger:
            x_BCYX = F.relu(each(x_BCYX))
        if self.spec.scale is not None:
            size = [self.spec.scale * edge for edge in self.spec.grid]
            x_BCYX = F.interpolate(F.relu(x_BCYX), size=size, mode="bilinear", align_corners=False)
        return {"heatmaps": self.output(x_BCYX)}
