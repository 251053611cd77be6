"""fp16 by casts in the graph: standard operators only, so ONNX Runtime, TensorRT 10 and strongly typed TensorRT 11
compute the same.

Float32 stay: LayerNormalization, Softmax and the reductions and powers of a norm that is written out (half precision
ruins them); what leads to a sine or cosine (positions above 2048 are not half numbers); the recurrent state and what
computes with it, from the linear layers before to those after it; what reads a scalar that half cannot hold; the
graph's inputs and outputs. A cache of keys and values is stored in float32, but products read it in half.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from export import graph
from export.precision.result import Precision, describe
from runtime import states
from targets.errors import InputError

_NORMS = {"LayerNormalization", "RMSNormalization", "GroupNormalization", "InstanceNormalization", "BatchNormalization"}
_SUMS = {"ReduceMean", "ReduceSum", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp", "CumSum"}
_CURVES = {"Softmax", "LogSoftmax", "Pow", "Sqrt", "Reciprocal", "Exp", "Log", "Sin", "Cos"}
KEEP = frozenset(_NORMS | _SUMS | _CURVES | {"Range", "Resize", "ConstantOfShape"})
#: Operators that only move values.
MOVES = frozenset(
    {"Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Concat", "Gather"}
    | {"Expand", "Tile", "Pad"}
)
_CODES = ("QuantizeLinear", "DequantizeLinear")
PRODUCTS = frozenset(("MatMul", "Gemm", "Conv"))
HALF_MAX = 65504.0
HALF_MIN = 2.0**-14  # smaller numbers lose digits


def to_fp16(source: Path, path: Path) -> Precision:
    """Write the fp16 form. Inputs and outputs keep their types. State is `past_NAME` in and `present_NAME` out, or
    `past_key_values.NAME` and `present.NAME`.

    Numbers beyond half's range, such as the -3e38 of a mask, become its largest. Raises InputError for a graph with
    control flow.
    """
    model = graph.load(source)
    nodes = list(model.graph.node)
    if any(one.HasField("g") or one.graphs for node in nodes for one in node.attribute):
        raise InputError(f"{source.name} has control flow (If, Loop, Scan), which fp16 does not convert")
    kept = _kept(nodes, _weights(model), _tiny(model), _state(model))
    changed = [node.name for node in nodes if node.op_type in PRODUCTS and node.name not in kept]
    stay = [node.name for node in nodes if node.name in kept]
    _retype(model, kept)
    graph.save(model, path)
    return describe("fp16", source, path, changed, stay)


def _state(model: Any) -> list[tuple[str, str]]:
    """(past input, present output) of every state, by the names that all our files have."""
    presents = {value.name for value in model.graph.output}
    pasts = [value.name for value in model.graph.input if states.is_past(value.name)]
    return [(past, states.present_of(past)) for past in pasts if states.present_of(past) in presents]


def _weights(model: Any) -> set[str]:
    """Names of the constants: what is stored, and what is dequantized from it."""
    stored = {one.name for one in model.graph.initializer}
    decoded = {
        node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in stored
    }
    return stored | decoded


def _tiny(model: Any) -> set[str]:
    """Scalars that half precision rounds to zero or nearly: the 1e-9 that keeps a division from zero."""
    scalars = {name: abs(float(array.item())) for name, array in graph.weights(model).items() if array.size == 1}
    return {name for name, value in scalars.items() if 0 < value < HALF_MIN}


def _kept(nodes: list[Any], weights: set[str], tiny: set[str], state: list[tuple[str, str]]) -> set[str]:
    """Names of the nodes that compute in float32."""
    kept = {node.name for node in nodes if node.op_type in KEEP or tiny & set(node.input)}
    waves = {name for node in nodes if node.op_type in ("Sin", "Cos") for name in node.input}
    for node in reversed(nodes):
        if waves & set(node.output):
            kept.add(node.name)
            waves.update(node.input)
    for past, present in state:
        kept |= _state_nodes(nodes, weights, past, present)
    return kept | _amid(nodes, weights, kept)


def _state_nodes(nodes: list[Any], weights: set[str], past: str, present: str) -> set[str]:
    nodes = [node for node in nodes if node.op_type not in ("Shape", "Size")]  # what follows has no value of the state
    after, before = {past}, {present}
    for node in nodes:
        if after & set(node.input):
            after.update(node.output)
    for node in reversed(nodes):
        if before & set(node.output):
            before.update(node.input)
    path = [node for node in nodes if after & set(node.input) and before & set(node.output)]
    kept = {node.name for node in path}
    if all(node.op_type in MOVES for node in path):
        return kept  # a cache: nothing accumulates in it
    added = {name for node in path for name in node.input}
    kept |= {node.name for node in nodes if added & set(node.output)}
    carried = {past, *(name for node in path for name in node.output)}
    inner = [node for node in nodes if not (_is_linear(node, weights) or node.op_type in _CODES)]
    summed = set()
    for node in nodes:
        # what reads the state's int8 form is in half: the linear layers that follow
        if carried & set(node.input) and not (_is_linear(node, weights) or node.op_type == "DequantizeLinear"):
            kept.add(node.name)
            carried.update(node.output)
            summed.update(node.input)
    for node in reversed(inner):  # sums over a chunk are as long as the chunk, and stand beside those of the state
        if summed & set(node.output):
            kept.add(node.name)
            summed.update(node.input)
    return kept


def _is_linear(node: Any, weights: set[str]) -> bool:
    return node.op_type in ("MatMul", "Gemm") and bool(weights & set(node.input))


def _amid(nodes: list[Any], weights: set[str], kept: set[str]) -> set[str]:
    """Nodes between float32 nodes alone, such as the `+ eps` of a norm that is written out."""
    maker = {name: node for node in nodes for name in node.output}
    readers: dict[str, list[Any]] = defaultdict(list)
    for node in nodes:
        for name in node.input:
            readers[name].append(node)
    found: set[str] = set()
    for node in nodes:
        before = [maker[name] for name in node.input if name in maker and name not in weights]
        after = [reader for name in node.output for reader in readers[name]]
        if not before or not after:
            continue
        if all(one.name in kept | found for one in before) and all(one.name in kept for one in after):
            found.add(node.name)
    return found


def _retype(model: Any, kept: set[str]) -> None:
    """Give every float value its type and cast where a node wants the other."""
    from onnx import TensorProto, helper

    full, half = TensorProto.FLOAT, TensorProto.FLOAT16
    types = _float_values(model)  # all `full` at first
    weights = {one.name: one for one in model.graph.initializer}
    halved: dict[str, str] = {}  # a weight's name -> the name of its half form
    casts: dict[tuple[str, int], str] = {}
    nodes: list[Any] = []

    def as_type(name: str, wanted: int) -> str:
        if types.get(name, wanted) == wanted:
            return name
        if name in weights:
            return halved.setdefault(name, f"{name}.half")
        if (name, wanted) not in casts:
            new = casts[name, wanted] = f"{name}.{'half' if wanted == half else 'float'}"
            nodes.append(helper.make_node("Cast", [name], [new], name=f"{new}/Cast", to=wanted))
        return casts[name, wanted]

    outputs = {output.name for output in model.graph.output}
    for node in model.graph.node:
        if node.op_type == "Cast":
            nodes.append(node)
            continue
        wanted = full if node.name in kept else half
        for index, name in enumerate(node.input):
            node.input[index] = as_type(name, wanted)
        nodes.append(node)
        for index, name in enumerate(node.output):
            if name not in types or wanted == full:
                continue
            types[name] = half
            if name in outputs:
                node.output[index] = f"{name}.half"
                nodes.append(helper.make_node("Cast", [f"{name}.half"], [name], name=f"{name}/Cast", to=full))
                types[name], types[f"{name}.half"] = full, half
                casts[name, half] = f"{name}.half"
    graph.set_nodes(model, nodes)
    for name, new in halved.items():
        model.graph.initializer.append(_half(weights[name], new))


def _float_values(model: Any) -> dict[str, int]:
    from onnx import TensorProto

    inferred = graph.inferred(model).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    known = set(found) | {one.name for one in inferred.initializer}
    unknown = next((name for node in inferred.node for name in node.output if name and name not in known), None)
    if unknown is not None:
        raise InputError(f"the type of {unknown!r} cannot be inferred; convert the plain exported file")
    found |= {one.name: one.data_type for one in inferred.initializer}
    return {name: kind for name, kind in found.items() if kind == TensorProto.FLOAT}


def _half(weight: Any, name: str) -> Any:
    import numpy as np
    from onnx import numpy_helper

    array = np.clip(numpy_helper.to_array(weight), -HALF_MAX, HALF_MAX).astype(np.float16)
    return numpy_helper.from_array(array, name)
