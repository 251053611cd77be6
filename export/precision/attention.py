"""Attention in a graph of standard operators: its two products and the softmax between them, and whether TensorRT can
fuse them in int8.

Its rules for int8: both products are quantized (pairs before the first, behind the softmax, before and behind the
second), the size of a head is 16, 32 or 64 and the lengths are at most 512; products of one row are better left alone.

Reference: NVIDIA TensorRT documentation, "Working with Transformers", section on the fusion of multi-head attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from export import graph

HEAD_SIZES, LONGEST = (16, 32, 64), 512
#: What may stand between a product and the softmax, or behind it, and moves no value to another place.
_BETWEEN = {"Add", "Cast", "DequantizeLinear", "Div", "Identity", "Mul", "QuantizeLinear", "Sub", "Where"}


@dataclass(frozen=True)
class Attention:
    """One block: `first` gives the logits, `second` mixes the values by what `softmax` gives."""

    first: Any
    softmax: Any
    second: Any

    @property
    def products(self) -> tuple[Any, Any]:
        """Both products, in their order."""
        return self.first, self.second

    def misfit(self, shapes: Mapping[str, tuple[int | str, ...]]) -> str | None:
        """Why TensorRT would not fuse it in int8; None where nothing is known against it."""
        query, key, value = (
            shapes.get(name, ()) for name in (self.first.input[0], self.first.input[1], self.second.input[1])
        )
        if min(map(len, (query, key, value))) < 2:
            return "the shapes of its products are not known"
        sizes = {size for size in (query[-1], value[-1]) if isinstance(size, int)}
        if len(sizes) > 1:
            return f"queries have {query[-1]} channels and values {value[-1]}; equal sizes are fused"
        if not sizes <= set(HEAD_SIZES):
            return f"its heads have {min(sizes)} channels; {', '.join(map(str, HEAD_SIZES))} are fused"
        lengths = [size for size in (query[-2], key[-1]) if isinstance(size, int)]
        if 1 in lengths:
            return "its products have one row"
        return f"it is {max(lengths)} long; up to {LONGEST} is fused" if max(lengths, default=0) > LONGEST else None


def attentions(model: Any) -> list[Attention]:
    """The blocks of a graph, in its order."""
    maker = {name: node for node in model.graph.node for name in node.output}
    readers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    constants = {one.name for one in model.graph.initializer}

    def is_product(node: Any) -> bool:
        return node.op_type == "MatMul" and not constants & set(node.input)

    def before(name: str) -> Any | None:
        node = maker.get(name)
        if node is None or is_product(node):
            return node
        if node.op_type not in _BETWEEN:
            return None
        return next((found for one in node.input if (found := before(one)) is not None and is_product(found)), None)

    def behind(name: str) -> Any | None:
        for node in readers.get(name, []):
            if is_product(node) and node.input[0] == name:
                return node
            if node.op_type in _BETWEEN and (found := behind(node.output[0])) is not None:
                return found
        return None

    found = []
    for softmax in model.graph.node:
        if softmax.op_type != "Softmax":
            continue
        first, second = before(softmax.input[0]), behind(softmax.output[0])
        if first is not None and is_product(first) and second is not None:
            found.append(Attention(first, softmax, second))
    return found


def fusable(model: Any) -> list[Attention]:
    """The blocks that TensorRT may fuse in int8."""
    shapes = graph.shapes(model)
    return [one for one in attentions(model) if one.misfit(shapes) is None]


def describe(model: Any) -> str:
    """'attention in int8 in 8 of 12 blocks (its heads have 12 channels; 16, 32, 64 are fused)'."""
    shapes, blocks = graph.shapes(model), attentions(model)
    reasons = [reason for one in blocks if (reason := one.misfit(shapes)) is not None]
    why = f" ({', '.join(dict.fromkeys(reasons))})" if reasons else ""
    return f"attention in int8 in {len(blocks) - len(reasons)} of {len(blocks)} blocks{why}"


def in_int8(model: Any) -> list[Attention]:
    """The blocks of a quantized graph that have the pairs which TensorRT asks for: before both inputs of either
    product, so behind the softmax too, and behind the second product."""
    maker = {name: node for node in model.graph.node for name in node.output}
    readers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def is_pair(name: str) -> bool:
        node = maker.get(name)
        if node is None or node.op_type != "DequantizeLinear":
            return False
        quantize = maker.get(node.input[0])
        return quantize is not None and quantize.op_type == "QuantizeLinear"

    return [
        one
        for one in attentions(model)
        if all(is_pair(name) for node in one.products for name in node.input)
        and {node.op_type for node in readers.get(one.second.output[0], ())} == {"QuantizeLinear"}
    ]
