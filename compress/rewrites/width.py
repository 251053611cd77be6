"""How wide something stays: a count, or a share of what is there."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator

#: Shares are rounded to a multiple of this, which kernels like.
_STEP = 8


def _check(width: Any) -> int | float:
    count = type(width) is int and width >= 1
    if not count and not (type(width) is float and 0 < width < 1):
        raise ValueError("expected a count of 1 or more, or a share above 0 and below 1")
    return width


Width = Annotated[int | float, BeforeValidator(_check)]


def counted(width: Width, whole: int) -> int:
    """The width as a count; a share of `whole` becomes the nearest multiple of 8 where there are as many."""
    if isinstance(width, int):
        return width
    return min(whole, max(1, round(width * whole / _STEP) * _STEP or round(width * whole)))
