"""Patches of images. B batch, N tokens, P patches, S tokens in front of them, D hidden size."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from compress.model.embed import Embed, EmbedSpec
from compress.model.norms import NormSpec
from compress.model.sequence import Context


class PatchEmbedSpec(EmbedSpec):
    """Non-overlapping patches through one linear map, `prefix_tokens` learned tokens (cls, distillation) in front,
    a learned position per token unless `positions` is off (BEiT). `norm`: a norm right after the embedding (CLIP)."""

    kind: Literal["patch"] = "patch"
    channels: PositiveInt
    image_size: tuple[PositiveInt, PositiveInt]
    patch_size: tuple[PositiveInt, PositiveInt]
    prefix_tokens: NonNegativeInt = 1
    patch_bias: bool = True
    positions: bool = True
    norm: NormSpec | None = None

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patches."""
        (height, width), (rows, columns) = self.image_size, self.patch_size
        return height // rows, width // columns

    @property
    def tokens(self) -> int:
        """Number of tokens, the prefix included."""
        rows, columns = self.grid
        return self.prefix_tokens + rows * columns

    def build(self, hidden_size: int) -> PatchEmbed:
        return PatchEmbed(self, hidden_size)


class PatchEmbed(Embed):
    def __init__(self, spec: PatchEmbedSpec, hidden_size: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(
            spec.channels, hidden_size, spec.patch_size, stride=spec.patch_size, bias=spec.patch_bias
        )
        self.prefix = nn.Parameter(torch.zeros(1, spec.prefix_tokens, hidden_size))
        self.position = nn.Parameter(torch.zeros(1, spec.tokens, hidden_size)) if spec.positions else None
        self.norm = spec.norm.build(hidden_size, loops=1) if spec.norm else None

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Context]:
        patches_BPD = self.patch(inputs["pixel_values"]).flatten(2).transpose(1, 2)
        prefix_BSD = self.prefix.expand(patches_BPD.shape[0], -1, -1)
        x_BND = torch.cat([prefix_BSD, patches_BPD], dim=1)
        if self.position is not None:
            x_BND = x_BND + self.position
        return (x_BND if self.norm is None else self.norm(x_BND)), Context()
