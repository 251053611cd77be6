"""The class of each pixel, from what leaves several blocks.

B batch, N tokens, D hidden size, C channels or classes, Y and X height and width.
"""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from compress.model.embed import Embed
from compress.model.heads.neck import Neck, NeckSpec, convolution, enlarged
from compress.model.sequence import Context


class SegmentationSpec(NeckSpec):
    """Scores of `num_labels` classes by the neck of DPT and two convolutions. Each of its sums is twice as large as the
    one before, and so is the answer."""

    kind: Literal["segmentation"] = "segmentation"
    num_labels: PositiveInt

    def build(self, hidden_size: int) -> Segmentation:
        return Segmentation(self, hidden_size)


class Segmentation(Neck):
    def __init__(self, spec: SegmentationSpec, hidden_size: int) -> None:
        super().__init__(spec, hidden_size)
        self.first = convolution(spec.fusion, spec.fusion)
        self.output = nn.Conv2d(spec.fusion, spec.num_labels, 1)

    def forward(self, x_BND: Tensor, context: Context, embed: Embed) -> dict[str, Tensor]:
        """`x`: the tokens of the tapped layers, behind each other."""
        x_BCYX = F.relu(self.first(self.fused(x_BND, follows=False)))
        return {"logits": enlarged(self.output(x_BCYX), None)}
