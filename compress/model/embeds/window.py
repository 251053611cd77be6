"""Windows of readings of sensors. B batch, N tokens, P tokens before them, M = P + N, C numbers of a window."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from compress.model.embed import Embed, EmbedSpec
from compress.model.projection import Projection
from compress.model.sequence import Context


class WindowEmbedSpec(EmbedSpec):
    """x = window W + b: a token is a window of readings of sensors, C numbers.

    Inputs: `windows` (B,N,C); `attention_mask` (B,M), 1 at real windows, all real if not given; `position_ids` (B,N).
    """

    kind: Literal["window"] = "window"
    size: PositiveInt

    def sequence(self, batch: int, tokens: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {"windows": torch.randn(batch, tokens, self.size, generator=generator)}

    def build(self, hidden_size: int) -> WindowEmbed:
        return WindowEmbed(self, hidden_size)


class WindowEmbed(Embed):
    def __init__(self, spec: WindowEmbedSpec, hidden_size: int) -> None:
        super().__init__()
        self.read = Projection(spec.size, hidden_size)

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Context]:
        return self.read(inputs["windows"]), Context(inputs.get("attention_mask"), inputs.get("position_ids"))
