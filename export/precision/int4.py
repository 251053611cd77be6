"""4-bit weights for decoders on a CPU: ONNX Runtime's MatMulNBits, which reads activations in float32.

Weights are quantized in blocks along the input, one scale and zero point per block, fitted to real inputs where there
are some. A table that is also the weight of the output layer is stored once. Scales take a byte in the file and become
floats when it is opened. Such a product reads an eighth of the bytes, which is what one token at a time waits for; for
many tokens at once int8 is faster (docs/reference/export.md). The file is for ONNX Runtime alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export import graph
from export.precision.blocks import Blocks
from export.precision.gptq import in_blocks, second_moments
from export.precision.result import Precision, check_names, describe
from export.precision.tables import quantize_tables
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np

#: Inputs that share a scale: 4.4 bits a weight.
BLOCK = 32
#: The same of a table that is the output layer too, which costs a small model as much as all its layers: 4.8 bits.
TIED_BLOCK = 16
#: Sums in int8 (MatMulNBits' accuracy level 4): activations are quantized on the fly, per block.
_INT8_SUMS = 4
_NOTHING = "{} has no matrix product for 4-bit weights; leave the precision at fp32"


def fit_int4(source: Path, batches: Iterable[Mapping[str, np.ndarray]]) -> dict[str, Blocks]:
    """Each weight of a plain file in 4 bits, fitted to what its layers read on `batches` of real inputs.

    Raises InputError without a batch or a product to quantize, GateFailed for values that are not finite.
    """
    import numpy as np

    model, layers = _load(source)
    read = sorted({node.input[0] for nodes in layers.values() for node in nodes})
    moments, weights = second_moments(model, read, batches), graph.weights(model)
    tied = _tied_tables(model, weights, layers)
    return {
        name: in_blocks(weights[name], _size(name, tied), np.mean([moments[node.input[0]] for node in nodes], axis=0))
        for name, nodes in layers.items()
    }


def to_int4(
    source: Path, path: Path, exclude: Collection[str] = (), fitted: Mapping[str, Blocks] | None = None
) -> Precision:
    """Write the 4-bit form of a plain file. `exclude` names nodes to leave alone; `fitted` is what `fit_int4` found
    (without it weights are rounded to the nearest step). Embedding tables become int8, or 4 bits where they are tied.

    Raises InputError for an unknown node or a graph without a matrix product to quantize.
    """
    from onnx import helper

    model, layers = _load(source)
    check_names(exclude, [node.name for nodes in layers.values() for node in nodes])
    chosen = {name: [node for node in nodes if node.name not in exclude] for name, nodes in layers.items()}
    chosen = {name: nodes for name, nodes in chosen.items() if nodes}
    if not chosen:
        raise InputError(_NOTHING.format(source.name))
    weights = graph.weights(model)
    tied = _tied_tables(model, weights, chosen)
    changed: list[str] = []
    ahead: list[Any] = []
    for name, nodes in chosen.items():
        blocks = fitted[name] if fitted is not None else in_blocks(weights[name], _size(name, tied))
        size = blocks.grid.size
        stored = _store(model, name, blocks, ahead)
        for node in nodes:
            _multiply(node, stored, weights[name].shape, size)
            changed.append(node.name)
        if name in tied:
            changed.append(tied[name].name)
            _gather(model, tied[name], stored, weights[name].shape, size, ahead)
    graph.set_nodes(model, [*ahead, *model.graph.node])
    if not any(one.domain == graph.MICROSOFT for one in model.opset_import):
        model.opset_import.append(helper.make_opsetid(graph.MICROSOFT, 1))
    changed += quantize_tables(model)
    graph.save(model, path)
    return describe("int4", source, path, changed, sorted(exclude))


def _load(source: Path) -> tuple[Any, dict[str, list[Any]]]:
    model = graph.load(source)
    graph.fold_transposes(model)
    layers = _layers(model)
    if not layers:
        raise InputError(_NOTHING.format(source.name))
    return model, layers


def _layers(model: Any) -> dict[str, list[Any]]:
    """Weight -> the products that read it."""
    matrices = {one.name for one in model.graph.initializer if len(one.dims) == 2}
    found: dict[str, list[Any]] = {}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in matrices:
            found.setdefault(node.input[1], []).append(node)
    return found


def _tied_tables(model: Any, weights: Mapping[str, np.ndarray], layers: Collection[str]) -> dict[str, Any]:
    """Weight (K,N) -> the one Gather of rows from its transpose, where K is a whole number of blocks."""
    import numpy as np

    found: dict[str, Any] = {}
    for node in model.graph.node:
        table = weights.get(node.input[0]) if node.op_type == "Gather" else None
        if table is None or table.ndim != 2 or table.shape[1] % TIED_BLOCK or graph.attribute(node, "axis", 0) != 0:
            continue
        alike = (name for name in layers if weights[name].shape == table.shape[::-1])
        name = next((name for name in alike if np.array_equal(weights[name], table.T)), None)
        if name is not None:
            found.setdefault(name, node)
    return found


def _size(name: str, tied: Collection[str]) -> int:
    return TIED_BLOCK if name in tied else BLOCK


def _store(model: Any, name: str, blocks: Blocks, ahead: list[Any]) -> list[str]:
    """Store a weight as MatMulNBits reads it: codes (N,K/B,B/2), scales (N,K/B), zeros (N,K/B/2); two codes a byte, the
    first in the low half. Returns the three names. The scales are levels (N,K/B) times units (N,1), which ONNX Runtime
    multiplies once, when it opens the file: these nodes go `ahead` of all others."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    per_output, count = blocks.codes.T, len(blocks.grid.levels)
    codes, scale, zero = f"{name}.int4", f"{name}.scale", f"{name}.zero"
    arrays = {
        codes: _packed(per_output).reshape(len(per_output), count, -1),
        f"{scale}.level": np.ascontiguousarray(blocks.grid.levels.T),
        f"{scale}.unit": blocks.grid.units[:, None],
        zero: _packed(np.pad(blocks.grid.zeros.T, ((0, 0), (0, count % 2)))),
    }
    model.graph.initializer.extend(numpy_helper.from_array(array, stored) for stored, array in arrays.items())
    ahead += [
        helper.make_node("Cast", [f"{scale}.level"], [f"{scale}.cast"], name=f"{scale}/Cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{scale}.cast", f"{scale}.unit"], [scale], name=f"{scale}/Mul"),
    ]
    return [codes, scale, zero]


def _packed(codes: np.ndarray) -> np.ndarray:
    return codes[:, 0::2] | codes[:, 1::2] << 4


def _multiply(node: Any, stored: list[str], shape: tuple[int, ...], size: int) -> None:
    """The product becomes MatMulNBits in place."""
    from onnx import helper

    new = helper.make_node(
        "MatMulNBits",
        [node.input[0], *stored],
        list(node.output),
        name=node.name,
        domain=graph.MICROSOFT,
        K=shape[0],
        N=shape[1],
        bits=4,
        block_size=size,
        accuracy_level=_INT8_SUMS,
    )
    node.CopyFrom(new)


def _gather(model: Any, node: Any, stored: list[str], shape: tuple[int, ...], size: int, ahead: list[Any]) -> None:
    """The rows of a tied table come from the same codes, which GatherBlockQuantized reads as (N,K/2)."""
    import numpy as np
    from onnx import helper, numpy_helper

    flat, sizes = f"{stored[0]}.rows", f"{stored[0]}.sizes"
    model.graph.initializer.append(numpy_helper.from_array(np.array([shape[1], shape[0] // 2]), sizes))
    ahead.append(helper.make_node("Reshape", [stored[0], sizes], [flat], name=f"{node.name}/Reshape"))
    inputs = [flat, node.input[1], *stored[1:]]
    new = helper.make_node(
        "GatherBlockQuantized",
        inputs,
        list(node.output),
        name=node.name,
        domain=graph.MICROSOFT,
        bits=4,
        block_size=size,
        gather_axis=0,
        quantize_axis=1,
    )
    node.CopyFrom(new)
