"""Only the first tokens go on; the others were read for the last time. B batch, N tokens, D hidden size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import PositiveInt
from torch import Tensor

from compress.model.reducer import ReducerSpec
from compress.model.sequence import Context


@dataclass(frozen=True)
class First:
    """The first `kept` tokens."""

    kept: int
    rest: bool = False
    __hash__ = None  # type: ignore[assignment]  # torch.compile of torch 2.11 asks for it too early

    def __call__(self, x_BND: Tensor, real_BN: Tensor | None = None) -> Tensor:
        return x_BND[:, : self.kept]


class FirstSpec(ReducerSpec):
    """The first `count` tokens, for a head that reads no others."""

    kind: Literal["first"] = "first"
    count: PositiveInt

    @property
    def leading(self) -> int:
        return self.count

    def reduction(self, x_BND: Tensor, context: Context) -> First:
        return First(self.count)
