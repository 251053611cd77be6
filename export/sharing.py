"""Each weight stored once, under the name it has in the torch module.

torch's exporter stores the transpose of a linear layer's weight anew for each use, or leaves the transposing to the
runtime, and gives weights names such as `val_13`. Here linear layers read constants (inputs x outputs) and equal
weights are one. Only where a weight is needed both ways (a tied embedding) does a Transpose node stay, which the
runtimes fold when they load the file.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export import graph
from targets.errors import GateFailed

if TYPE_CHECKING:
    import numpy as np

#: Smaller arrays are gains, biases and shapes.
SHARED_FROM_BYTES = 1 << 10
#: What follows a layer's name in its parameters' names.
_SUFFIX = re.compile(r"(\.(weight|bias)(\.\d+)?)?(\.T)?$")
Key = tuple[str, tuple[int, ...], bytes]


def share_weights(model: Any, parameters: Mapping[str, np.ndarray], prefix: str) -> None:
    """Store equal weights once and name them, and the nodes that use them, after the module's `parameters`.

    `prefix` is what the exporter put before the names of the parameters.
    """
    graph.fold_transposes(model)
    named: dict[Key, str] = {}
    for name, array in parameters.items():
        named.setdefault(key_of(array), name)
    for name, array in parameters.items():
        if array.ndim == 2:
            named.setdefault(key_of(array.T), f"{name}.T")
    first: dict[Key, str] = {}
    taken: set[str] = set()
    renamed: dict[str, str] = {}
    kept = []
    for one, array in zip(model.graph.initializer, graph.weights(model).values(), strict=True):
        key = key_of(array)
        if key in first and _worth_sharing(array):
            renamed[one.name] = first[key]
            continue
        name = one.name.removeprefix(prefix)
        if name not in parameters:
            name = named.get(key, name)
        if name in taken:
            name = one.name
        taken.add(name)
        first.setdefault(key, name)
        renamed[one.name] = name
        kept.append(one)
    _keep(model, kept, renamed)
    untranspose(model)
    _name_nodes(model)


def assert_shared_once(path: Path) -> None:
    """Hold a file to storing each weight once, as tied and looped blocks need: no copies, no transposed copies.

    Raises GateFailed that names the two weights. Those under 1 KiB and those of one value throughout do not count.
    """
    seen: dict[Key, str] = {}
    for name, array in graph.weights(graph.load(path)).items():
        if not _worth_sharing(array):
            continue
        for form in (array, array.T) if array.ndim == 2 else (array,):
            key = key_of(form)
            if seen.setdefault(key, name) != name:
                raise GateFailed(
                    f"{path.name} stores one weight twice, as {seen[key]!r} and {name!r}; "
                    "use a tied weight as it is, neither copied nor computed anew for each use"
                )


def key_of(array: np.ndarray) -> Key:
    """Equal for arrays of the same type, shape and bytes."""
    return array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).digest()


def _worth_sharing(array: np.ndarray) -> bool:
    """Not small, and not all of one value, as fresh gains and biases of different layers are."""
    return array.nbytes >= SHARED_FROM_BYTES and bool((array != array.flat[0]).any())


def _keep(model: Any, kept: list[Any], renamed: Mapping[str, str]) -> None:
    graph.set_weights(model, kept)
    for one in model.graph.initializer:
        one.name = renamed[one.name]
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)


def untranspose(model: Any) -> None:
    """Where a stored weight is the transpose of another, read that one through a Transpose node."""
    from onnx import helper

    arrays = {name: array for name, array in graph.weights(model).items() if array.ndim == 2}
    stored = {key_of(array): name for name, array in arrays.items() if _worth_sharing(array)}
    gone: set[str] = set()
    turned = []
    for name, array in arrays.items():
        other = stored.get(key_of(array.T))
        if other is None or other == name or other in gone:
            continue
        if not _feeds_products_only(model, name):
            continue
        gone.add(name)
        turned.append(helper.make_node("Transpose", [other], [name], perm=[1, 0]))
    graph.set_weights(model, [one for one in model.graph.initializer if one.name not in gone])
    graph.set_nodes(model, [*turned, *model.graph.node])


def _feeds_products_only(model: Any, name: str) -> bool:
    """A Gather (an embedding) must read its table directly; a MatMul can do with the transpose."""
    return all(node.op_type in ("MatMul", "Gemm", "MatMulInteger") for node in model.graph.node if name in node.input)


def _name_nodes(model: Any) -> None:
    """A node that reads a weight is called after it: `blocks.0.up/MatMul`, its second use `blocks.0.up/MatMul_1`."""
    stored = {one.name for one in model.graph.initializer}
    stored |= {node.output[0] for node in model.graph.node if node.op_type == "Transpose" and node.input[0] in stored}
    count: Counter[str] = Counter()
    for node in model.graph.node:
        owner = next((read for read in node.input if read in stored and "." in read), None)
        if owner is None:
            continue
        name = f"{_SUFFIX.sub('', owner)}/{node.op_type}"
        count[name] += 1
        node.name = name if count[name] == 1 else f"{name}_{count[name] - 1}"
