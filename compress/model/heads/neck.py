"""What several blocks give as one picture, for heads that answer for each pixel: the neck of DPT (Ranftl et al. 2021,
arXiv 2103.13413).

B batch, N tokens, P patches, D hidden size, E two of it, C channels, Y and X height and width.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from compress.model.activations import ACTIVATIONS, ActivationName
from compress.model.head import Head, HeadSpec
from compress.model.projection import Projection
from compress.spec import Spec


class LevelSpec(Spec):
    """What one of the tapped layers gives: `channels` at `up` times the size of the grid, or at one `down`-th of it."""

    channels: PositiveInt
    up: PositiveInt = 1
    down: PositiveInt = 1


class NeckSpec(HeadSpec):
    """What leaves the original's layers `taps` becomes a picture each; from the last one on they are added up at
    growing size. `grid`: rows and columns of patches behind the `prefix` first tokens. `readout`: what becomes of the
    first token; `project`: it stands beside each patch in a map of its own, through `activation`."""

    each_token: ClassVar[bool] = True
    taps: tuple[NonNegativeInt, ...]
    levels: tuple[LevelSpec, ...]
    grid: tuple[PositiveInt, PositiveInt]
    prefix: PositiveInt = 1
    readout: Literal["ignore", "add", "project"] = "ignore"
    activation: ActivationName = "gelu"
    fusion: PositiveInt

    @model_validator(mode="after")
    def _each_tap_is_a_level(self) -> NeckSpec:
        if len(self.taps) != len(self.levels) or not self.taps:
            raise ValueError(f"a picture for each tapped layer is needed: {len(self.levels)} for {len(self.taps)}")
        return self

    @property
    def tapped(self) -> tuple[int, ...]:
        return self.taps


class Neck(Head):
    """Base of the heads on such a picture."""

    def __init__(self, spec: NeckSpec, hidden_size: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(_Level(spec, level, hidden_size) for level in spec.levels)
        self.fusions = nn.ModuleList(_Fusion(spec.fusion, place > 0) for place in range(len(spec.levels)))

    def fused(self, x_BND: Tensor, follows: bool) -> Tensor:
        """The picture (B,C,Y,X). `x`: the tokens of the tapped layers, behind each other. `follows`: each sum grows to
        the size of the next picture; else it is twice as large as the one before."""
        each = x_BND.chunk(len(self.levels), dim=1)
        pictures = [level(one_BND) for level, one_BND in zip(self.levels, each, strict=True)][::-1]
        fused_BCYX: Tensor | None = None
        for place, (fusion, picture_BCYX) in enumerate(zip(self.fusions, pictures, strict=True)):
            size = pictures[place + 1].shape[-2:] if follows and place + 1 < len(pictures) else None
            fused_BCYX = fusion(picture_BCYX, fused_BCYX, size)
        assert fused_BCYX is not None
        return fused_BCYX


class _Level(nn.Module):
    """Tokens of one layer as a picture."""

    def __init__(self, spec: NeckSpec, level: LevelSpec, hidden_size: int) -> None:
        super().__init__()
        self.grid, self.prefix = spec.grid, spec.prefix
        self.adds, self.activation = spec.readout == "add", ACTIVATIONS[spec.activation]
        self.readout = Projection(2 * hidden_size, hidden_size, bias=True) if spec.readout == "project" else None
        self.channels = nn.Conv2d(hidden_size, level.channels, 1)
        self.resize: nn.Module = nn.Identity()
        if level.up > 1:
            self.resize = nn.ConvTranspose2d(level.channels, level.channels, level.up, stride=level.up)
        elif level.down > 1:
            self.resize = nn.Conv2d(level.channels, level.channels, 3, stride=level.down, padding=1)
        self.fusion = nn.Conv2d(level.channels, spec.fusion, 3, padding=1, bias=False)

    def forward(self, x_BND: Tensor) -> Tensor:
        first_B1D, patches_BPD = x_BND[:, :1], x_BND[:, self.prefix :]
        if self.readout is not None:
            both_BPE = torch.cat([patches_BPD, first_B1D.expand_as(patches_BPD)], dim=-1)
            patches_BPD = self.activation(self.readout(both_BPE))
        elif self.adds:
            patches_BPD = patches_BPD + first_B1D
        picture_BDYX = patches_BPD.transpose(1, 2).reshape(-1, patches_BPD.shape[2], *self.grid)
        picture_BCYX = self.resize(self.channels(picture_BDYX))
        given_BCYX: Tensor = self.fusion(picture_BCYX)
        return given_BCYX


class _Fusion(nn.Module):
    """Adds a picture to what came of the smaller ones, and enlarges the sum."""

    def __init__(self, channels: int, adds: bool) -> None:
        super().__init__()
        self.before = _Residual(channels) if adds else None
        self.behind = _Residual(channels)
        self.output = nn.Conv2d(channels, channels, 1)

    def forward(self, x_BCYX: Tensor, fused_BCYX: Tensor | None, size: tuple[int, int] | None) -> Tensor:
        if fused_BCYX is not None and self.before is not None:
            if x_BCYX.shape[-2:] != fused_BCYX.shape[-2:]:
                x_BCYX = F.interpolate(x_BCYX, size=fused_BCYX.shape[-2:], mode="bilinear", align_corners=False)
            x_BCYX = fused_BCYX + self.before(x_BCYX)
        given_BCYX: Tensor = self.output(enlarged(self.behind(x_BCYX), size))
        return given_BCYX


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = convolution(channels, channels), convolution(channels, channels)

    def forward(self, x_BCYX: Tensor) -> Tensor:
        inner_BCYX: Tensor = self.second(F.relu(self.first(F.relu(x_BCYX))))
        return x_BCYX + inner_BCYX


def convolution(given: int, out: int) -> nn.Conv2d:
    """Of 3 x 3 pixels; the size stays."""
    return nn.Conv2d(given, out, 3, padding=1)


def enlarged(x_BCYX: Tensor, size: tuple[int, int] | None) -> Tensor:
    """At this size, or twice as large."""
    rows, columns = x_BCYX.shape[-2:] if size is None else size
    wanted = (2 * rows, 2 * columns) if size is None else (rows, columns)
    return F.interpolate(x_BCYX, size=wanted, mode="bilinear", align_corners=True)
