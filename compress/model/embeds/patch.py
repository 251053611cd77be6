"""Patches of images and spectrograms.

B batch, N tokens, P patches, S tokens in front of them, C channels, Y and X height and width, D hidden size."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from compress.model.embed import Embed, EmbedSpec
from compress.model.norms import NormSpec
from compress.model.sequence import Context


class PatchEmbedSpec(EmbedSpec):
    """Patches through one linear map, `prefix_tokens` learned tokens (cls, distillation) in front, a learned position
    per token unless `positions` is off (BEiT). `norm`: a norm right after the embedding (CLIP). `stride`: how far
    patches lie apart where they overlap (AST). `padding`: pixels of zeros around the image (ViTPose). `spectrogram`:
    the input is not an image (B, channels, height, width), but frames (B, width, height) of a spectrogram."""

    kind: Literal["patch"] = "patch"
    channels: PositiveInt
    image_size: tuple[PositiveInt, PositiveInt]
    patch_size: tuple[PositiveInt, PositiveInt]
    prefix_tokens: NonNegativeInt = 1
    patch_bias: bool = True
    positions: bool = True
    norm: NormSpec | None = None
    stride: tuple[PositiveInt, PositiveInt] | None = None
    padding: NonNegativeInt = 0
    spectrogram: bool = False

    @property
    def input(self) -> str:
        """Name of what is read."""
        return "input_values" if self.spectrogram else "pixel_values"

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patches."""
        sizes = zip(self.image_size, self.patch_size, self.stride or self.patch_size, strict=True)
        rows, columns = (1 + (whole + 2 * self.padding - patch) // step for whole, patch, step in sizes)
        return rows, columns

    @property
    def tokens(self) -> int:
        """Number of tokens, the prefix included."""
        rows, columns = self.grid
        return self.prefix_tokens + rows * columns

    def random(self, batch: int, generator: torch.Generator) -> dict[str, Tensor]:
        """A random input by its name."""
        height, width = self.image_size
        shape = (width, height) if self.spectrogram else (self.channels, height, width)
        return {self.input: torch.randn(batch, *shape, generator=generator)}

    def build(self, hidden_size: int) -> PatchEmbed:
        return PatchEmbed(self, hidden_size)


class PatchEmbed(Embed):
    def __init__(self, spec: PatchEmbedSpec, hidden_size: int) -> None:
        super().__init__()
        self.spec = spec
        size, stride = spec.patch_size, spec.stride or spec.patch_size
        self.patch = nn.Conv2d(
            spec.channels, hidden_size, size, stride=stride, padding=spec.padding, bias=spec.patch_bias
        )
        self.prefix = nn.Parameter(torch.zeros(1, spec.prefix_tokens, hidden_size))
        self.position = nn.Parameter(torch.zeros(1, spec.tokens, hidden_size)) if spec.positions else None
        self.norm = spec.norm.build(hidden_size, loops=1) if spec.norm else None

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Context]:
        given = inputs[self.spec.input]
        x_BCYX = given.transpose(1, 2)[:, None] if self.spec.spectrogram else given
        patches_BPD = self.patch(x_BCYX).flatten(2).transpose(1, 2)
        prefix_BSD = self.prefix.expand(patches_BPD.shape[0], -1, -1)
        x_BND = torch.cat([prefix_BSD, patches_BPD], dim=1)
        if self.position is not None:
            x_BND = x_BND + self.position
        return (x_BND if self.norm is None else self.norm(x_BND)), Context()
