"""Dynamic int8 for ONNX Runtime on a CPU: activations are quantized on the fly, so no calibration data is needed.

Weights are int8 with one scale per output channel, full range; activations uint8 with one scale per call. On x86 with
AVX2 but no VNNI that pair saturates, so the runtime opens the file with uint8 weights there (the measurements are in
docs/reference/export.md, with what the alternatives cost). With `pairs` no session can saturate.

Embedding tables become int8 with one scale per row.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export import graph
from export.precision.result import Precision, check_names, describe
from export.precision.symmetric import quantize_pairs
from export.precision.tables import quantize_tables
from export.quiet import quiet
from export.sharing import untranspose
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np

#: Operators that ONNX Runtime has a dynamic int8 form of and that are worth it; a patch convolution is not.
_OPERATORS = ("MatMul", "Attention")


def to_int8_dynamic(source: Path, path: Path, exclude: Collection[str] = (), pairs: bool = False) -> Precision:
    """Write the int8 form of a plain file or of one from `optimize_for_cpu`. `exclude` names nodes to leave alone.
    `pairs`: weights that no kernel saturates on (`quantize_pairs`).

    A graph without layers keeps all but its tables. Raises InputError for an unknown node, or if all are excluded.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = graph.load(source)
    graph.fold_transposes(model)
    _split_gemms(model)
    ranks = {one.name: len(one.dims) for one in model.graph.initializer}
    sites = [node.name for node in model.graph.node if _has_constant_weight(node, ranks)]
    check_names(exclude, sites)
    chosen = [name for name in sites if name not in exclude]
    if sites and not chosen:
        raise InputError(f"{source.name} has no layer left to quantize; leave the precision at fp32")
    tables = quantize_tables(model, pairs)
    if not sites:  # static embeddings: a table of words is all there is
        graph.save(model, path)
        return describe("int8", source, path, tables, [])
    layers = {node.input[1] for node in model.graph.node if pairs and node.name in chosen}
    weights = {name: array for name, array in graph.weights(model).items() if name in layers} if layers else {}
    with tempfile.TemporaryDirectory() as folder, quiet():
        written = Path(folder, "int8.onnx")
        quantize_dynamic(
            model,
            str(written),
            op_types_to_quantize=list(_OPERATORS),
            nodes_to_quantize=chosen,
            per_channel=True,
            reduce_range=False,
            weight_type=QuantType.QInt8,
            extra_options={"DefaultTensorType": 1, "MatMulConstBOnly": True},
        )
        int8 = graph.load(written)
    _put_pairs(int8, weights)
    untranspose(int8)  # a tied table has the same codes as a table and, turned, as the weight of a layer
    graph.save(int8, path)
    left = {node.name for node in int8.graph.node}  # quantized nodes have other names
    kept = sorted({*exclude, *(name for name in chosen if name in left)})
    return describe("int8", source, path, [*tables, *(name for name in chosen if name not in left)], kept)


def _put_pairs(model: Any, weights: Mapping[str, np.ndarray]) -> None:
    """Round these weights anew, in place of ONNX Runtime's numbers."""
    from onnx import numpy_helper

    made: dict[str, np.ndarray] = {}
    for name, weight in weights.items():
        made[f"{name}_quantized"], made[f"{name}_scale"] = quantize_pairs(weight, 1)
    kept = [one for one in model.graph.initializer if one.name not in made]
    graph.set_weights(model, [*kept, *(numpy_helper.from_array(array, name) for name, array in made.items())])


def _split_gemms(model: Any) -> None:
    """Gemm with a constant weight becomes MatMul and Add, which have an int8 kernel. The MatMul keeps the name."""
    from onnx import helper, numpy_helper

    weights = graph.weights(model)
    nodes: list[Any] = []
    for node in model.graph.node:
        weight = weights.get(node.input[1]) if node.op_type == "Gemm" else None
        factors = {graph.attribute(node, "alpha", 1.0), graph.attribute(node, "beta", 1.0)}
        if weight is None or factors != {1.0} or graph.attribute(node, "transA", 0):
            nodes.append(node)
            continue
        name = node.input[1]
        if graph.attribute(node, "transB", 0):
            name = f"{name}.T"
            if name not in weights:
                weights[name] = weight.T.copy()
                model.graph.initializer.append(numpy_helper.from_array(weights[name], name))
        bias = list(node.input[2:])
        product = f"{node.output[0]}.product" if bias else node.output[0]
        nodes.append(helper.make_node("MatMul", [node.input[0], name], [product], name=node.name))
        if bias:
            nodes.append(helper.make_node("Add", [product, *bias], [node.output[0]], name=f"{node.name}/Add"))
    graph.set_nodes(model, nodes)


def _has_constant_weight(node: Any, ranks: Mapping[str, int]) -> bool:
    """`ranks`: of every constant, by name."""
    if node.op_type == "Attention":
        return node.domain == graph.MICROSOFT and node.input[1] in ranks
    return not node.domain and node.op_type in _OPERATORS and ranks.get(node.input[1]) == 2
