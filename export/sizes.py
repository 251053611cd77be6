"""How large a model is and how much it computes, from its ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from export import graph


@dataclass(frozen=True)
class Sizes:
    """`parameters`: numbers in initializers, each stored one once, shapes and other integers of the graph left out.
    `macs`: multiply-adds of MatMul, Gemm and Conv with every dynamic dimension as given; None if a shape is unknown."""

    bytes: int
    weight_bytes: int
    parameters: int
    nodes: int
    macs: int | None


def measure(path: Path, dynamic: Mapping[str, int] | None = None) -> Sizes:
    """Sizes of an ONNX file; `dynamic` gives dynamic dimensions, 1 for those it lacks.

    In a quantized file, zero points count as bytes but not as parameters; scales count as both.
    """
    model = graph.load(path)
    arrays = graph.weights(model)
    counted = [array for array in arrays.values() if _is_parameter(array)]
    return Sizes(
        bytes=path.stat().st_size,
        weight_bytes=sum(array.nbytes for array in arrays.values()),
        parameters=sum(array.size for array in counted),
        nodes=len(model.graph.node),
        macs=_macs(model, dynamic or {}),
    )


def _is_parameter(array: Any) -> bool:
    if array.dtype.kind == "f":
        return bool(array.ndim)  # a lone number is a constant of the graph
    return array.dtype.name in ("int8", "uint8") and array.ndim > 1


def _macs(model: Any, dynamic: Mapping[str, int]) -> int | None:
    fixed = graph.copied(model)
    for value in fixed.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.dim_value = dynamic.get(dim.dim_param, 1)
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    shapes = graph.shapes(fixed)
    total = 0
    for node in fixed.graph.node:
        if node.op_type not in ("MatMul", "Gemm", "Conv", "MatMulInteger"):
            continue
        left, right, out = (shapes.get(name) for name in (node.input[0], node.input[1], node.output[0]))
        if left is None or right is None or out is None:
            return None
        inner = left[0 if graph.attribute(node, "transA", 0) else -1]
        summed = right[1:] if node.op_type == "Conv" else (inner,)
        sizes = [size for size in (*out, *summed) if isinstance(size, int)]
        if len(sizes) < len(out) + len(summed):
            return None
        total += prod(sizes)
    return total
