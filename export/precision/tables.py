"""Embedding tables as int8 with one scale per row, in standard operators: Cast(Gather(int8)) * Gather(scales)."""

from __future__ import annotations

from typing import Any

from export import graph

#: Smaller tables (positions of a short sequence, token types) are not worth the operators.
FROM_BYTES = 256 << 10


def quantise_tables(model: Any) -> list[str]:
    """Replace each Gather of rows from a large constant table; returns the names of the nodes."""
    from onnx import TensorProto, helper, numpy_helper

    from export.precision.int8_static import quantise

    weights = graph.weights(model)
    nodes: list[Any] = []
    changed: list[str] = []
    stored: set[str] = set()
    for node in model.graph.node:
        table = weights.get(node.input[0]) if node.op_type == "Gather" else None
        large = table is not None and table.dtype == "float32" and table.ndim == 2 and table.nbytes >= FROM_BYTES
        if not large or graph.attribute(node, "axis", 0) != 0:
            nodes.append(node)
            continue
        assert table is not None
        name, ids, out = node.input[0], node.input[1], node.output[0]
        if name not in stored:
            stored.add(name)
            int8, scales = quantise(table, 0)
            model.graph.initializer.append(numpy_helper.from_array(int8, f"{name}.int8"))
            model.graph.initializer.append(numpy_helper.from_array(scales[:, None], f"{name}.scale"))
        changed.append(node.name)
        nodes += [
            helper.make_node("Gather", [f"{name}.int8", ids], [f"{out}.int8"], name=f"{node.name}/int8"),
            helper.make_node("Cast", [f"{out}.int8"], [f"{out}.cast"], name=f"{node.name}/Cast", to=TensorProto.FLOAT),
            helper.make_node("Gather", [f"{name}.scale", ids], [f"{out}.scale"], name=f"{node.name}/scale"),
            helper.make_node("Mul", [f"{out}.cast", f"{out}.scale"], [out], name=f"{node.name}/Mul"),
        ]
    graph.set_nodes(model, nodes)
    return changed
