"""Smooth activation outliers before int8: move them into the weights, where each channel has a scale of its own.

For a norm whose output x (.. x in) is read by linear layers alone, with weights W (in x out):

    y = x W = (x / s) (diag(s) W),    s_j = max|x_j|^alpha / max|W_j|^(1 - alpha)

1/s goes into the norm's gain and bias, so the graph has no new operator and computes the same numbers, up to rounding.
Source: Xiao et al., SmoothQuant, ICML 2023, equations 3 and 4. Weights that several norms share (a looped
block) get one s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export import graph
from export.precision.calibrate import channel_maxima
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np

Group = tuple[list[Any], set[str]]  # norm nodes, names of the weights that read them


def smooth(source: Path, path: Path, batches: Iterable[Mapping[str, np.ndarray]], alpha: float = 0.5) -> list[str]:
    """Write the smoothed file; returns the names of the norms that took a scale, none if no norm is read by linear
    layers alone (then the file is a copy).

    `alpha` in [0, 1]: how much of the outliers moves into the weights. Raises InputError for another, or no batch.
    """
    import numpy as np

    if not 0 <= alpha <= 1:
        raise InputError(f"smoothing is {alpha}, allowed: from 0 (nothing moves) to 1")
    model = graph.load(source)
    graph.fold_transposes(model)
    groups = _groups(model)
    norms = [node for nodes, _ in groups for node in nodes]
    maxima = channel_maxima(model, [node.output[0] for node in norms], batches) if norms else {}
    weights = graph.weights(model)
    for nodes, names in groups:
        largest = np.max([maxima[node.output[0]] for node in nodes], axis=0).astype(np.float64)
        columns = np.max([np.abs(weights[name]).max(axis=1) for name in names], axis=0).astype(np.float64)
        live = (largest > 0) & (columns > 0)
        scale = np.where(live, largest**alpha / np.where(live, columns, 1) ** (1 - alpha), 1.0)
        for name in names:
            _replace(model, name, weights[name] * scale[:, None])
        for node in nodes:
            for index, name in _gains(node, weights):
                node.input[index] = f"{node.name}.smooth{index}"
                _add(model, node.input[index], weights[name] / scale)
    graph.save(model, path)
    return [node.name for node in norms]


def _groups(model: Any) -> list[Group]:
    """Norms that only linear layers read, grouped by the weights that these share."""
    weights = graph.weights(model)
    readers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in model.graph.output}
    candidates: dict[str, tuple[Any, set[str]]] = {}
    for node in model.graph.node:
        after = readers.get(node.output[0], [])
        linear = all(_is_linear(reader, node.output[0], weights) for reader in after)
        if after and linear and node.output[0] not in outputs and _gains(node, weights):
            candidates[node.output[0]] = (node, {reader.input[1] for reader in after})
    groups: list[Group] = []
    for node, names in candidates.values():
        joined = [group for group in groups if group[1] & names]
        merged: Group = ([one for group in joined for one in group[0]] + [node], names.union(*(g[1] for g in joined)))
        groups = [group for group in groups if group not in joined] + [merged]
    return [
        (nodes, names)
        for nodes, names in groups
        if all(reader.input[0] in candidates for name in names for reader in readers[name])
    ]


def _is_linear(node: Any, read: str, weights: Mapping[str, np.ndarray]) -> bool:
    weight = weights.get(node.input[1]) if node.op_type == "MatMul" and len(node.input) > 1 else None
    return weight is not None and weight.ndim == 2 and node.input[0] == read


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
