"""Smooth activation outliers before int8: move them into the weights, where each channel has a scale of its own.

For a value x (.. x in) that linear layers read, with weights W (in x out):

    y = x W = (x / s) (diag(s) W),    s_j = max|x_j|^alpha / max|W_j|^(1 - alpha)

Where x is a norm's output that linear layers alone read, 1/s goes into the norm's gain and bias, with no new
operator. Elsewhere (post-norm blocks, the inputs of output and down projections) a Mul by 1/s stands in front of the
layers, if some channel is loud enough to be worth it. Either way the graph computes the same numbers, up to rounding.
Source: Xiao et al., SmoothQuant, ICML 2023, equations 3 and 4, which treats norms alone. Weights that several values
share (a looped block) get one s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export import graph
from export.precision.calibrate import channel_maxima
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np

#: A value is worth a Mul of its own if its loudest channel is this many times as loud as the median one.
LOUD = 4.0


@dataclass(frozen=True)
class Smoothed:
    """Values that were smoothed: for nothing, in the norm that makes them, or by a Mul in front of their readers."""

    in_norms: tuple[str, ...]
    by_products: tuple[str, ...]


@dataclass(frozen=True)
class _Group:
    """Values and the weights that read them; each weight is read with values of this group alone."""

    values: tuple[str, ...]
    weights: tuple[str, ...]


def smooth(source: Path, path: Path, batches: Iterable[Mapping[str, np.ndarray]], alpha: float = 0.5) -> Smoothed:
    """Write the smoothed file, a copy if there is nothing to smooth.

    `alpha` in [0, 1]: how much of the outliers moves into the weights. Raises InputError for another, or no batch.
    """
    import numpy as np

    if not 0 <= alpha <= 1:
        raise InputError(f"smoothing is {alpha}, allowed: from 0 (nothing moves) to 1")
    model = graph.load(source)
    graph.fold_transposes(model)
    groups = _groups(model)
    norms = _norms(model)
    names = [value for group in groups for value in group.values]
    maxima = channel_maxima(model, names, batches) if names else {}
    weights = graph.weights(model)
    in_norms: list[str] = []
    products: list[tuple[str, tuple[str, ...], np.ndarray]] = []
    for group in groups:
        largest = np.max([maxima[value] for value in group.values], axis=0).astype(np.float64)
        rows = np.max([np.abs(weights[name]).max(axis=1) for name in group.weights], axis=0).astype(np.float64)
        free = all(value in norms for value in group.values)
        if not free and largest.max() < LOUD * np.median(largest):
            continue
        live = (largest > 0) & (rows > 0)
        scale = np.where(live, largest**alpha / np.where(live, rows, 1) ** (1 - alpha), 1.0)
        for name in group.weights:
            _replace(model, name, weights[name] * scale[:, None])
        for value in group.values:
            if value in norms:
                _scale_norm(model, norms[value], weights, scale)
                in_norms.append(value)
            else:
                products.append((value, group.weights, scale))
    for value, names_read, scale in products:  # last: it makes the graph's nodes anew, and `norms` holds the old ones
        _insert_product(model, value, names_read, scale)
    graph.save(model, path)
    return Smoothed(tuple(in_norms), tuple(value for value, _, _ in products))


def _groups(model: Any) -> list[_Group]:
    """Values that linear layers read, joined where they share a weight."""
    weights = graph.weights(model)
    made = {name for node in model.graph.node for name in node.output}
    reads: dict[str, set[str]] = {}  # weight -> values
    foreign: set[str] = set()  # weights that something else reads too
    for node in model.graph.node:
        linear = _is_linear(node, weights)
        for name in node.input:
            if linear and name == node.input[1] and node.input[0] in made:
                reads.setdefault(name, set()).add(node.input[0])
            elif name in weights:
                foreign.add(name)
    groups: list[tuple[set[str], set[str]]] = []
    for name, values in reads.items():
        joined = [group for group in groups if group[0] & values]
        groups = [group for group in groups if group not in joined]
        groups.append((values.union(*(one[0] for one in joined)), {name}.union(*(one[1] for one in joined))))
    return [_Group(tuple(sorted(values)), tuple(sorted(names))) for values, names in groups if not names & foreign]


def _norms(model: Any) -> dict[str, Any]:
    """Outputs of norms that linear layers alone read -> the norm's node."""
    weights = graph.weights(model)
    readers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in model.graph.output}
    return {
        node.output[0]: node
        for node in model.graph.node
        if _gains(node, weights)
        and node.output[0] not in outputs
        and all(_is_linear(reader, weights) for reader in readers.get(node.output[0], [node]))
    }


def _scale_norm(model: Any, node: Any, weights: Mapping[str, np.ndarray], scale: np.ndarray) -> None:
    """Divide a norm's gain and bias; they become its own where several norms shared them."""
    for index, name in _gains(node, weights):
        node.input[index] = f"{node.name}.smooth{index}"
        _add(model, node.input[index], weights[name] / scale)


def _insert_product(model: Any, value: str, names: tuple[str, ...], scale: np.ndarray) -> None:
    """Put a Mul by 1/s between a value and the layers with these weights."""
    from onnx import helper

    _add(model, f"{value}.smooth", 1 / scale)
    nodes: list[Any] = []
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[0] == value and node.input[1] in names:
            if not any(f"{value}.smoothed" in one.output for one in nodes):
                inputs = [value, f"{value}.smooth"]
                nodes.append(helper.make_node("Mul", inputs, [f"{value}.smoothed"], name=f"{value}/smooth"))
            node.input[0] = f"{value}.smoothed"
        nodes.append(node)
    graph.set_nodes(model, nodes)


def _is_linear(node: Any, weights: Mapping[str, np.ndarray]) -> bool:
    weight = weights.get(node.input[1]) if node.op_type == "MatMul" else None
    return weight is not None and weight.ndim == 2 and node.input[0] not in weights


def _gains(node: Any, weights: Mapping[str, np.ndarray]) -> list[tuple[int, str]]:
    """The vectors that scale a norm's output, by input: gain and bias, or the gain of a norm that is written out."""
    if node.op_type == "LayerNormalization":
        found = [(index, name) for index, name in enumerate(node.input) if index > 0 and name in weights]
        return found if len(found) == len(node.input) - 1 else []
    if node.op_type == "Mul":
        return [(index, name) for index, name in enumerate(node.input) if name in weights and weights[name].ndim == 1][
            :1
        ]
    return []


def _replace(model: Any, name: str, array: np.ndarray) -> None:
    kept = [one for one in model.graph.initializer if one.name != name]
    graph.set_weights(model, kept)
    _add(model, name, array)


def _add(model: Any, name: str, array: np.ndarray) -> None:
    import numpy as np
    from onnx import numpy_helper

    model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
