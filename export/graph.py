"""ONNX files as values: read, tidied so that equal models have equal bytes, checked, written whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.files import write_atomic
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np

#: Protobuf's limit on one message.
MAX_BYTES = (1 << 31) - 1
#: ONNX Runtime's own operators; a file that has any is for ONNX Runtime alone.
MICROSOFT = "com.microsoft"


def load(path: Path) -> Any:
    """The ModelProto in a file, with the weights that it stores apart. Raises InputError if it is missing or not
    ONNX, or if those weights are."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path))
    except (onnx.checker.ValidationError, ValueError) as error:
        raise InputError(f"{path}: weights in another file: {str(error).strip().splitlines()[0]}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except DecodeError as error:
        raise InputError(f"{path}: not an ONNX file: {error}") from error
    if not model.graph.node:
        raise InputError(f"{path}: not an ONNX file: it has no nodes")
    _lift_constants(model)
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    return model


def _lift_constants(model: Any) -> None:
    """Constant nodes become initializers, so that every pass finds constants in one place."""
    from onnx import numpy_helper

    kept = []
    for node in model.graph.node:
        value = attribute(node, "value") if node.op_type == "Constant" else None
        if value is None:
            kept.append(node)
            continue
        model.graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(value), node.output[0]))
    if len(kept) < len(model.graph.node):
        set_nodes(model, kept)


def save(model: Any, path: Path) -> int:
    """Tidy, check and write a ModelProto; returns its bytes. Equal models give equal bytes.

    Raises InputError if it is invalid ONNX or larger than protobuf's 2 GiB.
    """
    import onnx

    tidy(model)
    size = model.ByteSize()
    if size > MAX_BYTES:
        raise InputError(f"{path.name} would be {size} bytes; one ONNX file holds {MAX_BYTES}; make the model smaller")
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise InputError(f"{path.name} is not valid ONNX: {str(error).strip().splitlines()[0]}") from error
    data: bytes = model.SerializeToString(deterministic=True)
    write_atomic(path, data)
    return len(data)


def tidy(model: Any) -> None:
    """Drop what differs from run to run or names the machine: stack traces, doc strings, producers, inferred shapes."""
    model.producer_name, model.producer_version = "edgepress", ""
    model.doc_string = model.domain = ""
    model.ClearField("metadata_props")
    graph = model.graph
    graph.name, graph.doc_string = "model", ""
    graph.ClearField("metadata_props")
    graph.ClearField("value_info")
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output, *model.functions):
        part.doc_string = ""
        part.ClearField("metadata_props")
    drop_unused(model)
    versions = sorted((entry.domain, entry.version) for entry in model.opset_import)
    used = {node.domain for node in graph.node} | {""}
    model.ClearField("opset_import")
    for domain, version in versions:
        if domain in used:
            model.opset_import.add(domain=domain, version=version)


def drop_unused(model: Any) -> None:
    """Remove the nodes and weights that no output depends on."""
    graph = model.graph
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.isdisjoint(node.output):
            continue
        kept.append(node)
        needed.update(names_read(node))
    set_nodes(model, kept[::-1])
    set_weights(model, [one for one in graph.initializer if one.name in needed])


def copied(message: Any) -> Any:
    """A protobuf message (model, node, weight) of its own."""
    return type(message).FromString(message.SerializeToString())


def set_nodes(model: Any, nodes: Iterable[Any]) -> None:
    """Replace the nodes; some of the new ones may be old ones."""
    copies = [copied(node) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def set_weights(model: Any, weights: Iterable[Any]) -> None:
    """Replace the initializers; some of the new ones may be old ones."""
    copies = [copied(one) for one in weights]
    del model.graph.initializer[:]
    model.graph.initializer.extend(copies)


def fold_transposes(model: Any) -> None:
    """Store the transpose of a weight where the graph computes it (a tied output layer), so it is a constant again."""
    from onnx import numpy_helper

    stored = weights(model)
    kept = []
    for node in model.graph.node:
        if node.op_type != "Transpose" or node.input[0] not in stored:
            kept.append(node)
            continue
        array = stored[node.input[0]].transpose(attribute(node, "perm"))
        model.graph.initializer.append(numpy_helper.from_array(array.copy(), node.output[0]))
    set_nodes(model, kept)


def merge_scales(model: Any) -> None:
    """(x * a) * b becomes x * (a b) where a and b are constant numbers. That is one product less, and ONNX Runtime can
    load the file: its MatMulScaleFusion drops x * a although x * a * b reads it, where both go into products."""
    import numpy as np
    from onnx import numpy_helper

    stored = weights(model)
    scaled: dict[str, tuple[str, np.ndarray]] = {}
    for node in model.graph.node:
        factor = stored.get(node.input[1]) if node.op_type == "Mul" else None
        if factor is None or factor.size != 1 or factor.dtype != np.float32:
            continue
        source, earlier = scaled.get(node.input[0], (node.input[0], None))
        if earlier is not None:
            factor = factor * earlier
            node.input[0], node.input[1] = source, f"{node.output[0]}.scale"
            model.graph.initializer.append(numpy_helper.from_array(factor, node.input[1]))
        scaled[node.output[0]] = source, factor


def names_read(node: Any) -> Iterator[str]:
    """Values that a node reads, those of its subgraphs among them."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from names_read(inner)


def opset(model: Any) -> int:
    """Version of the standard operators."""
    return next(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def use_microsoft(model: Any) -> None:
    """Say that the model has operators of ONNX Runtime's own."""
    if MICROSOFT not in {entry.domain for entry in model.opset_import}:
        model.opset_import.add(domain=MICROSOFT, version=1)


def weights(model: Any) -> dict[str, np.ndarray]:
    """Every initializer by name."""
    from onnx import numpy_helper

    return {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}


def attribute(node: Any, name: str, default: Any = None) -> Any:
    """A node's attribute, or `default`."""
    from onnx import helper

    return next((helper.get_attribute_value(one) for one in node.attribute if one.name == name), default)


def inferred(model: Any) -> Any:
    """The model with the types and shapes of all values, as far as ONNX (and ONNX Runtime's operators) can tell."""
    from onnx import shape_inference

    return shape_inference.infer_shapes(model, data_prop=True)


def shapes(model: Any) -> dict[str, tuple[int | str, ...]]:
    """Shape of every value that shape inference knows, initializers among them. A text is a dynamic dimension."""
    graph = inferred(model).graph
    found: dict[str, tuple[int | str, ...]] = {one.name: tuple(one.dims) for one in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        kind = value.type.tensor_type
        if kind.HasField("shape"):
            found[value.name] = tuple(
                dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in kind.shape.dim
            )
    return found
