"""Which layers a rewrite works on: "all", "auto:K" (the K that lose least) or a list of indices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BeforeValidator

from compress.model.block import BlockSpec
from compress.model.transformer import Transformer
from targets.errors import InputError


def _check(layers: Any) -> str | tuple[int, ...]:
    if isinstance(layers, list | tuple) and layers and all(type(layer) is int for layer in layers):
        if len(set(layers)) != len(layers):
            raise ValueError("expected different layer indices")
        return tuple(layers)
    count = layers.removeprefix("auto:") if isinstance(layers, str) else ""
    if layers != "all" and (count == layers or not count.isdecimal() or int(count) < 1):
        raise ValueError('expected "all", "auto:K" with K >= 1, or a list of layer indices')
    return str(layers)


Layers = Annotated[str | tuple[int, ...], BeforeValidator(_check)]


def resolve(
    layers: Layers,
    model: Transformer,
    check: Callable[[BlockSpec], object],
    rank: Callable[[list[int]], dict[int, float]],
) -> list[int]:
    """Indices of the chosen blocks, ascending.

    `check` raises InputError for a block that the rewrite cannot work on: such a block must not be chosen, and
    "auto:K" passes over it. `rank` says how much each of some blocks would lose, and is called for "auto:K" only.
    Raises InputError if the model has no such layer or fewer than K that pass.
    """
    count = len(model.structure.blocks)
    if isinstance(layers, str) and layers != "all":
        return _least(layers, model, check, rank)
    blocks = list(range(count)) if isinstance(layers, str) else sorted(layers)
    for block in blocks:
        if not 0 <= block < count:
            raise InputError(f"layers: there is no layer {block}; the model has {count} (0 to {count - 1})")
        check(model.structure.blocks[block])
    return blocks


def _least(
    layers: str,
    model: Transformer,
    check: Callable[[BlockSpec], object],
    rank: Callable[[list[int]], dict[int, float]],
) -> list[int]:
    suitable, refusals = [], []
    for block, spec in enumerate(model.structure.blocks):
        try:
            check(spec)
            suitable.append(block)
        except InputError as refusal:
            refusals.append(str(refusal))
    wanted = int(layers.removeprefix("auto:"))
    if wanted > len(suitable):
        reason = f" ({refusals[0]})" if refusals else ""
        raise InputError(f"layers: {layers!r} asks for more than the {len(suitable)} layers that can be taken{reason}")
    ranking = rank(suitable)
    return sorted(sorted(ranking, key=lambda block: (ranking[block], block))[:wanted])
