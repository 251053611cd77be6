"""Embedding tables in fewer bytes, in standard operators. Int8 with one scale per row: DequantizeLinear(Gather(int8)) *
Gather(scales), its zero point there so that the runtime may make the codes uint8. TensorRT refuses that (an int8
constant may only feed a DequantizeLinear, and one in front of the Gather would turn the whole table into floats at
every call), so for it: Cast(Gather(float16))."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from export import graph
from export.precision.symmetric import quantize, quantize_pairs

if TYPE_CHECKING:
    import numpy as np

#: Smaller tables (positions of a short sequence, token types) are not worth the operators.
FROM_BYTES = 256 << 10


def quantize_tables(model: Any, pairs: bool = False) -> list[str]:
    """Replace each Gather of rows from a large constant table by int8; returns the names of the nodes. `pairs`: as
    `quantize_pairs` does, so that a tied layer has the same codes."""
    import numpy as np
    from onnx import helper

    def smaller(table: np.ndarray) -> dict[str, np.ndarray]:
        int8, scales = (quantize_pairs if pairs else quantize)(table, 0)
        return {"int8": int8, "scale": scales[:, None], "one": np.ones((), np.float32), "zero": np.zeros((), np.int8)}

    def nodes(node: Any) -> list[Any]:
        (name, ids), out = node.input, node.output[0]
        return [
            helper.make_node("Gather", [f"{name}.int8", ids], [f"{out}.int8"], name=f"{node.name}/int8"),
            helper.make_node(
                "DequantizeLinear",
                [f"{out}.int8", f"{name}.one", f"{name}.zero"],
                [f"{out}.cast"],
                name=f"{node.name}/DequantizeLinear",
            ),
            helper.make_node("Gather", [f"{name}.scale", ids], [f"{out}.scale"], name=f"{node.name}/scale"),
            helper.make_node("Mul", [f"{out}.cast", f"{out}.scale"], [out], name=f"{node.name}/Mul"),
        ]

    return _replace(model, smaller, nodes)


def halve_tables(model: Any) -> list[str]:
    """The same in float16, for TensorRT; returns the names of the nodes."""
    import numpy as np
    from onnx import TensorProto, helper

    def smaller(table: np.ndarray) -> dict[str, np.ndarray]:
        most = np.finfo(np.float16).max
        return {"half": table.clip(-most, most).astype(np.float16)}

    def nodes(node: Any) -> list[Any]:
        (name, ids), out = node.input, node.output[0]
        return [
            helper.make_node("Gather", [f"{name}.half", ids], [f"{out}.half"], name=f"{node.name}/half"),
            helper.make_node("Cast", [f"{out}.half"], [out], name=f"{node.name}/Cast", to=TensorProto.FLOAT),
        ]

    return _replace(model, smaller, nodes)


def _replace(
    model: Any, smaller: Callable[[np.ndarray], dict[str, np.ndarray]], nodes: Callable[[Any], list[Any]]
) -> list[str]:
    """Replace each Gather of rows from a large constant table by `nodes`, which read what `smaller` makes of it."""
    from onnx import numpy_helper

    weights = graph.weights(model)
    written: list[Any] = []
    changed: list[str] = []
    stored: set[str] = set()
    for node in model.graph.node:
        table = weights.get(node.input[0]) if node.op_type == "Gather" else None
        large = table is not None and table.dtype == "float32" and table.ndim == 2 and table.nbytes >= FROM_BYTES
        if not large or graph.attribute(node, "axis", 0) != 0:
            written.append(node)
            continue
        assert table is not None
        name = node.input[0]
        if name not in stored:
            stored.add(name)
            parts = smaller(table).items()
            model.graph.initializer.extend(numpy_helper.from_array(array, f"{name}.{end}") for end, array in parts)
        changed.append(node.name)
        written += nodes(node)
    graph.set_nodes(model, written)
    return changed
