"""Which layers a rewrite works on: "all", "auto:K" (the K with the least unexplained variance) or a list of indices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator, Field

from compress.model.transformer import Transformer
from targets.errors import InputError


def _check(layers: str | tuple[int, ...]) -> str | tuple[int, ...]:
    if isinstance(layers, tuple):
        if len(set(layers)) != len(layers) or not layers:
            raise ValueError("expected different layer indices, at least one")
        return layers
    count = layers.removeprefix("auto:")
    if layers != "all" and (count == layers or not count.isdecimal() or int(count) < 1):
        raise ValueError('expected "all", "auto:K" with K >= 1, or a list of layer indices')
    return layers


Layers = Annotated[str | tuple[int, ...], Field(union_mode="left_to_right"), AfterValidator(_check)]


def resolve(layers: Layers, model: Transformer, rank: Callable[[list[int]], dict[int, float]]) -> list[int]:
    """Block indices, in the order of the schedule. `rank` gives each block's unexplained variance, and is only
    called for "auto:K". Raises InputError if the model has no such layer or fewer than K."""
    count = len(model.structure.blocks)
    if layers == "all":
        return list(range(count))
    if isinstance(layers, tuple):
        wrong = [layer for layer in layers if not 0 <= layer < count]
        if wrong:
            raise InputError(f"layers: there is no layer {wrong[0]}; the model has {count} (0 to {count - 1})")
        return sorted(layers)
    wanted = int(layers.removeprefix("auto:"))
    if wanted > count:
        raise InputError(f"layers: {layers!r} asks for more than the {count} layers of the model")
    ranking = rank(list(range(count)))
    return sorted(sorted(ranking, key=lambda block: (ranking[block], block))[:wanted])
