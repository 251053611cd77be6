"""Pooling of an image's patches in their grid. B batch, N tokens, R tokens that are left, D hidden size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor

from compress.model.reducer import ReducerSpec
from compress.model.sequence import Context


@dataclass(frozen=True)
class GridMean:
    """The mean of each cell of `size` x `size` patches; the `kept` tokens in front of the patches stay as they are."""

    kept: int
    rows: int
    columns: int
    size: int
    rest: bool = True
    __hash__ = None  # type: ignore[assignment]  # torch.compile of torch 2.11 asks for it too early

    def __call__(self, x_BND: Tensor, real_BN: Tensor | None = None) -> Tensor:
        # One axis after the other: a mean over one axis is a kernel of its own everywhere, over two apart it is not.
        (batch, _, width), size = x_BND.shape, self.size
        pairs = x_BND[:, self.kept :].reshape(batch, self.rows * self.columns // size, size, width).mean(dim=2)
        lines = pairs.reshape(batch, self.rows // size, size, self.columns // size * width).mean(dim=2)
        left = lines.reshape(batch, self.rows // size * self.columns // size, width)
        return torch.cat([x_BND[:, : self.kept], left], dim=1)


class GridMeanSpec(ReducerSpec):
    """A grid of `rows` x `columns` patches behind `kept` tokens becomes one of the means of `size` x `size` patches.
    Nothing is sorted or gathered, and all shapes are fixed."""

    kind: Literal["grid-mean"] = "grid-mean"
    kept: NonNegativeInt
    rows: PositiveInt
    columns: PositiveInt
    size: int = Field(ge=2)

    @model_validator(mode="after")
    def _cells_fill_the_grid(self) -> GridMeanSpec:
        if self.rows % self.size or self.columns % self.size:
            raise ValueError(
                f"a grid of {self.rows} x {self.columns} does not divide into cells of {self.size} x {self.size}"
            )
        return self

    def reduction(self, x_BND: Tensor, context: Context) -> GridMean:
        return GridMean(self.kept, self.rows, self.columns, self.size)
