"""Static int8 for TensorRT: Q/DQ pairs, symmetric int8 everywhere (zero points 0), one scale per output channel of a
weight, one per activation. Standard operators only.

Quantized are the operators with a constant weight: the input of each goes through QuantizeLinear/DequantizeLinear and
its weight is stored as int8 behind a DequantizeLinear. Left in float: biases, norms, softmax and, unless they are asked
for, products of two activations (attention's logits and mixed values: a small part of the work, and the part that int8
hurts most). Outputs are not quantized either: each is read by an operator that does not want int8. Embedding tables
become float16.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export import graph
from export.precision.attention import Attention, fusable
from export.precision.calibrate import Method, thresholds
from export.precision.result import Precision, check_names, describe
from export.precision.symmetric import quantize, quantize_pairs
from export.precision.tables import halve_tables
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class _Site:
    """A node with a constant weight, and the weight's axis of output channels."""

    node: Any
    weight: str
    axis: int


def to_int8_static(
    source: Path,
    path: Path,
    batches: Iterable[Mapping[str, np.ndarray]],
    method: Method = "percentile",
    exclude: Collection[str] = (),
    attention: bool = False,
    pairs: bool = False,
) -> Precision:
    """Write the Q/DQ form, with activation ranges from `batches` of real inputs. `exclude` names nodes to leave alone;
    with `attention` the products of attention are quantized too, where TensorRT can fuse them. `pairs`: weights that no
    kernel saturates on (`quantize_pairs`).

    A graph without layers keeps all but its tables. Raises InputError for an unknown node or method, no batch, or if
    all are excluded.
    """
    ranges = activation_ranges(source, batches, method, attention)
    return quantize_static(source, path, ranges, exclude, attention, pairs)


def activation_ranges(
    source: Path,
    batches: Iterable[Mapping[str, np.ndarray]],
    method: Method = "percentile",
    attention: bool = False,
) -> dict[str, float]:
    """What every layer reads -> the magnitude that becomes 127, from `batches` of real inputs.

    Raises InputError for an unknown method or no batch.
    """
    model, sites = _load(source)
    blocks = fusable(model) if attention else []
    read = {site.node.input[0] for site in sites} | {
        name for one in blocks for node in one.products for name in (*node.input, *node.output)
    }
    read -= {one.first.output[0] for one in blocks}
    tops = thresholds(model, sorted(read), batches, method) if read else {}
    return tops | {one.second.input[0]: 1.0 for one in blocks}  # of a softmax; a percentile would cut the sure ones off


def quantize_static(
    source: Path,
    path: Path,
    ranges: Mapping[str, float],
    exclude: Collection[str] = (),
    attention: bool = False,
    pairs: bool = False,
) -> Precision:
    """`to_int8_static` with ranges that were measured before. Raises InputError for an unknown node, or if nothing is
    left to quantize."""
    model, sites = _load(source)
    blocks = fusable(model) if attention else []
    check_names(exclude, [*(site.node.name for site in sites), *_names(blocks)])
    chosen = [site for site in sites if site.node.name not in exclude]
    if sites and not chosen:
        raise InputError(f"{source.name} has no layer left to quantize; leave the precision at fp32")
    blocks = [one for one in blocks if not {*_names([one])} & {*exclude}]  # one product alone would not be fused
    _insert(model, chosen, blocks, ranges, quantize_pairs if pairs else quantize)
    changed = [*halve_tables(model), *(site.node.name for site in chosen)]
    changed += _names(blocks)
    graph.save(model, path)
    return describe("int8", source, path, changed, sorted(exclude))


def _names(blocks: Iterable[Attention]) -> list[str]:
    return [node.name for one in blocks for node in one.products]


def _load(source: Path) -> tuple[Any, list[_Site]]:
    model = graph.load(source)
    graph.fold_transposes(model)
    return model, _sites(model)


def _sites(model: Any) -> list[_Site]:
    weights = {one.name: len(one.dims) for one in model.graph.initializer}
    found = []
    for node in model.graph.node:
        rank = weights.get(node.input[1]) if len(node.input) > 1 else None
        if node.domain or rank is None or node.input[0] in weights:
            continue
        if node.op_type == "Conv":
            found.append(_Site(node, node.input[1], 0))
        elif node.op_type == "MatMul" and rank == 2:
            found.append(_Site(node, node.input[1], 1))
        elif node.op_type == "Gemm" and not graph.attribute(node, "transA", 0):
            found.append(_Site(node, node.input[1], 0 if graph.attribute(node, "transB", 0) else 1))
    return found


def _insert(
    model: Any, sites: list[_Site], blocks: list[Attention], tops: Mapping[str, float], rounded: Callable[..., Any]
) -> None:
    """`rounded`: a weight and its axis of channels -> int8 and scales."""
    import numpy as np
    from onnx import helper, numpy_helper

    weights = graph.weights(model)
    stored: dict[str, np.ndarray] = {}
    before: dict[str, list[Any]] = {}  # node name -> nodes to put in front of it
    quantized: set[str] = set()

    def constant(name: str, array: np.ndarray) -> str:
        stored.setdefault(name, array)
        return name

    def pair(node: Any, place: int) -> None:
        """Let the node read what QuantizeLinear and DequantizeLinear make of this input."""
        x = node.input[place]
        if x not in quantized:
            quantized.add(x)
            scale = np.float32(tops[x] / 127 or 1.0)
            how = [constant(f"{x}.scale", np.array(scale)), constant(f"{x}.zero", np.zeros((), np.int8))]
            before.setdefault(node.name, []).extend(
                [
                    helper.make_node("QuantizeLinear", [x, *how], [f"{x}.int8"], name=f"{x}/QuantizeLinear"),
                    helper.make_node(
                        "DequantizeLinear", [f"{x}.int8", *how], [f"{x}.dq"], name=f"{x}/DequantizeLinear"
                    ),
                ]
            )
        node.input[place] = f"{x}.dq"

    mixed = {one.second.output[0] for one in blocks}
    reading = {site.node.name: {0} for site in sites}
    reading |= {node.name: {0, 1} for one in blocks for node in one.products}
    for node in model.graph.node:  # a pair stands before its first reader
        behind = {place for place, name in enumerate(node.input) if name in mixed}
        for place in sorted(behind | reading.get(node.name, set())):
            pair(node, place)
    for site in sites:
        node = site.node
        int8, scales = rounded(weights[site.weight], site.axis)
        names = [
            constant(f"{site.weight}.int8", int8),
            constant(f"{site.weight}.scale", scales),
            constant(f"{site.weight}.zero", np.zeros(len(scales), np.int8)),
        ]
        out = f"{node.name}.weight"
        whole = helper.make_node("DequantizeLinear", names, [out], name=f"{node.name}/Dequantize", axis=site.axis)
        before.setdefault(node.name, []).append(whole)
        node.input[1] = out
    graph.set_nodes(model, [one for node in model.graph.node for one in (*before.get(node.name, ()), node)])
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in stored.items())
