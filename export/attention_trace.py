"""Find plain softmax attention in an ONNX graph, however the model was written.

What lies between a linear layer and the query, key or value (reshapes, transposes, splits, slices, a scale) is not
matched by pattern but run once on indices: that tells what column of the layer goes to what head, exactly. What lies
between an attention mask and the logits that it fills is run once on every mask of a few tokens.

B batch, N tokens, D hidden, F outputs of a linear layer, H heads, K head size.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export import graph
from runtime import ort

if TYPE_CHECKING:
    import numpy as np

    from runtime.bundles.manifest import Tensor

_MOVES = frozenset(["Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Gather"])
_MASK_MOVES = frozenset(["Identity", "Unsqueeze", "Cast", "Not"])
#: Dynamic dimensions of the run on indices.
_SIZE = 2
#: Above this, float32 no longer holds a scaled index safely.
_MOST_INDICES = 1 << 22


@dataclass(frozen=True)
class Linear:
    """y = x W + b: names of x, W (D x F) and b, which may be missing."""

    x: str
    weight: str
    bias: str | None


@dataclass(frozen=True)
class Heads:
    """Columns (H, K) of a linear layer that make up the heads."""

    linear: Linear
    columns: np.ndarray


@dataclass(frozen=True)
class KeyMask:
    """`value` (B,N), an integer input of the graph, is 0 at keys that nobody looks at; their logits become `fill`.
    `hidden` (B,1,1,N) is what the graph makes of it, true at those keys."""

    value: str
    hidden: str
    fill: float


@dataclass(frozen=True)
class PlainAttention:
    """`joined` (B,N,H*K) = heads side by side of softmax(mask(scale * q k^T)) v, q, k, v linear in one `x` (B,N,D)."""

    q: Heads
    k: Heads
    v: Heads
    scale: float
    mask: KeyMask | None
    joined: str

    @property
    def num_heads(self) -> int:
        """H."""
        return int(self.q.columns.shape[0])


@dataclass(frozen=True)
class _Origin:
    """A value that is `start` (a linear layer's output) moved about and multiplied by `scale`."""

    value: str
    start: str
    scale: float
    linear: Linear


@dataclass(frozen=True)
class _Candidate:
    q: _Origin
    k: _Origin
    v: _Origin
    scale: float
    mask: KeyMask | None
    product: str
    joined: str


def plain_attentions(model: Any) -> list[PlainAttention]:
    """Every attention without bias, rotary positions, shared heads or a mask other than of keys, in the graph's
    order."""
    candidates = _candidates(model)
    plain = plain_masks(model, {one.mask for one in candidates if one.mask is not None})
    candidates = [one for one in candidates if one.mask is None or one.mask in plain]
    if not candidates:
        return []
    maps, shapes = _index_maps(model, candidates)
    found = (_verified(candidate, maps, shapes) for candidate in candidates)
    return [one for one in found if one is not None]


def random_inputs(tensors: Sequence[Tensor], size: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs as declared, with every dynamic dimension at `size` (`total`, which is past + chunk, at twice that):
    normal floats, zeros and ones for integers."""
    import numpy as np

    random = np.random.default_rng(seed)
    inputs = {}
    for tensor in tensors:
        shape = [(2 * size if dim == "total" else size) if isinstance(dim, str) else dim for dim in tensor.shape]
        floats = tensor.dtype.startswith("float")
        values = random.standard_normal(shape) if floats else random.integers(0, 2, shape)
        inputs[tensor.name] = values.astype(tensor.dtype)
    return inputs


class Wiring:
    """Who makes and who reads each value; None reads a graph output."""

    def __init__(self, model: Any) -> None:
        self.maker = {name: node for node in model.graph.node for name in node.output}
        self.readers: dict[str, list[Any]] = defaultdict(list)
        for node in model.graph.node:
            for name in node.input:
                self.readers[name].append(node)
        for output in model.graph.output:
            self.readers[output.name].append(None)
        self.weights = graph.weights(model)

    def before_scale(self, name: str) -> tuple[str, float]:
        """Step back over a product with, or division by, a constant of one element."""
        node = self.maker.get(name)
        if node is None or node.op_type not in ("Mul", "Div"):
            return name, 1.0
        left, right = (self.scalar(read) for read in node.input)
        if right is not None:
            return node.input[0], right if node.op_type == "Mul" else 1 / right
        if left is not None and node.op_type == "Mul":
            return node.input[1], left
        return name, 1.0

    def scalar(self, name: str) -> float | None:
        """A constant of one element."""
        array = self.weights.get(name)
        return float(array.reshape(())) if array is not None and array.size == 1 else None

    def before_mask(self, name: str) -> tuple[str, KeyMask | None]:
        """Step back over Where(hidden, fill, logits), with `hidden` made of one input of the graph alone."""
        node = self.maker.get(name)
        if node is None or node.op_type != "Where" or (fill := self.scalar(node.input[1])) is None:
            return name, None
        value = node.input[0]
        while (made := self.maker.get(value)) is not None and made.op_type in _MASK_MOVES:
            value = made.input[0]
        return (name, None) if made is not None else (node.input[2], KeyMask(value, node.input[0], fill))

    def linear(self, name: str) -> Linear | None:
        """The linear layer that makes a value."""
        node, bias = self.maker.get(name), None
        if node is not None and node.op_type == "Add":
            bias = next((read for read in node.input if read in self.weights), None)
            if bias is None or self.weights[bias].ndim != 1:
                return None
            node = self.maker.get(next(read for read in node.input if read != bias))
        if node is None or node.op_type != "MatMul":
            return None
        weight = self.weights.get(node.input[1])
        return Linear(node.input[0], node.input[1], bias) if weight is not None and weight.ndim == 2 else None

    def origin(self, value: str) -> _Origin | None:
        """Step back to a linear layer over operators that only move or scale."""
        name, scale = value, 1.0
        while (linear := self.linear(name)) is None:
            before, factor = self.before_scale(name)
            if before == name:
                node = self.maker.get(name)
                if node is None or node.op_type not in _MOVES:
                    return None
                before = node.input[0]
            name, scale = before, scale * factor
        return _Origin(value, name, scale, linear)

    def moved(self, name: str) -> str:
        """Step forward over operators that only move, while nothing else reads the value."""
        while len(readers := self.readers[name]) == 1:
            node = readers[0]
            if node is None or node.op_type not in _MOVES or len(node.output) != 1 or node.input[0] != name:
                break
            name = node.output[0]
        return name


def _candidates(model: Any) -> list[_Candidate]:
    wiring = Wiring(model)
    found = []
    for softmax in model.graph.node:
        if softmax.op_type != "Softmax" or graph.attribute(softmax, "axis", -1) not in (-1, 3):
            continue
        masked, scale = wiring.before_scale(softmax.input[0])
        logits, mask = wiring.before_mask(masked)
        logits, inner = wiring.before_scale(logits)
        scores, readers = wiring.maker.get(logits), wiring.readers[softmax.output[0]]
        if scores is None or scores.op_type != "MatMul" or len(readers) != 1:
            continue
        product = readers[0]
        if product is None or product.op_type != "MatMul" or product.input[0] != softmax.output[0]:
            continue
        q, k, v = (wiring.origin(name) for name in (*scores.input, product.input[1]))
        if q is None or k is None or v is None or len({one.linear.x for one in (q, k, v)}) != 1:
            continue
        scale *= inner * q.scale * k.scale
        if v.scale == 1.0:
            name = product.output[0]
            found.append(_Candidate(q, k, v, scale, mask, name, wiring.moved(name)))
    return found


def plain_masks(model: Any, masks: set[KeyMask]) -> set[KeyMask]:
    """The masks that hide from every query the keys where an input (B,N) is 0: all masks of four tokens are tried."""
    import numpy as np
    from onnx import TensorProto, helper

    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    integers = {TensorProto.INT32, TensorProto.INT64}
    masks = {mask for mask in masks if kinds.get(mask.value) in integers}
    if not masks:
        return set()
    read, hidden = ({getattr(mask, end) for mask in masks} for end in ("value", "hidden"))
    probe = graph.copied(model)
    del probe.graph.input[:], probe.graph.output[:]
    probe.graph.input.extend(helper.make_tensor_value_info(name, kinds[name], ["B", "N"]) for name in sorted(read))
    probe.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.BOOL, None) for name in sorted(hidden))
    graph.drop_unused(probe)
    patterns_BN = (np.arange(1 << 4)[:, None] >> np.arange(4)) & 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "masks.onnx")
        path.write_bytes(probe.SerializeToString())
        backend = ort.load(path, threads=1)
        made = backend.run({tensor.name: patterns_BN.astype(tensor.dtype) for tensor in backend.inputs})
    wanted = patterns_BN[:, None, None, :] == 0
    return {mask for mask in masks if np.array_equal(made[mask.hidden], wanted)}


def _index_maps(model: Any, candidates: list[_Candidate]) -> tuple[dict[str, np.ndarray], dict[str, tuple[int, ...]]]:
    """What element of its start each element of a traced value is, and the shapes of the starts.

    Two runs of ONNX Runtime: the whole graph for the shapes, then the parts from the starts on, fed with indices.
    """
    import numpy as np
    from onnx import TensorProto, helper

    origins = [one for candidate in candidates for one in (candidate.q, candidate.k, candidate.v)]
    starts = sorted({one.start for one in origins} | {candidate.product for candidate in candidates})
    scale_of = {one.value: one.scale for one in origins} | {candidate.joined: 1.0 for candidate in candidates}

    def declared(names: list[str], shapes: dict[str, tuple[int, ...]]) -> list[Any]:
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes.get(name)) for name in names]

    with tempfile.TemporaryDirectory() as folder:
        whole, parts = Path(folder, "whole.onnx"), Path(folder, "parts.onnx")
        probe = graph.copied(model)
        del probe.graph.output[:]
        probe.graph.output.extend(declared(starts, {}))
        whole.write_bytes(probe.SerializeToString())
        backend = ort.load(whole, threads=1)
        inputs = random_inputs(backend.inputs, _SIZE)
        shapes = {name: value.shape for name, value in backend.run(inputs).items()}
        if max(np.prod(shape) for shape in shapes.values()) > _MOST_INDICES:
            return {}, shapes

        probe = graph.copied(model)
        graph.set_nodes(probe, [node for node in probe.graph.node if not set(starts) & set(node.output)])
        del probe.graph.output[:]
        probe.graph.output.extend(declared(sorted(scale_of), {}))
        probe.graph.input.extend(declared(starts, shapes))
        graph.drop_unused(probe)
        parts.write_bytes(probe.SerializeToString())
        for name in starts:
            inputs[name] = np.arange(np.prod(shapes[name]), dtype=np.float32).reshape(shapes[name])
        moved = ort.load(parts, threads=1).run(inputs)
    return {name: np.rint(value / scale_of[name]).astype(np.int64) for name, value in moved.items()}, shapes


def _verified(
    candidate: _Candidate, maps: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]
) -> PlainAttention | None:
    """The attention, if every index is where plain attention has it."""
    import numpy as np

    if not maps:
        return None
    k_map = maps[candidate.k.value]
    q = _heads(candidate.q, maps[candidate.q.value], shapes)
    k = _heads(candidate.k, k_map.swapaxes(-1, -2), shapes)
    v = _heads(candidate.v, maps[candidate.v.value], shapes)
    if q is None or k is None or v is None or not q.columns.shape == k.columns.shape == v.columns.shape:
        return None
    shape = shapes[candidate.product]
    y_BHNK = np.arange(np.prod(shape)).reshape(shape)
    joined_BNF = y_BHNK.transpose(0, 2, 1, 3).reshape(shape[0], shape[2], -1)
    if not np.array_equal(maps[candidate.joined], joined_BNF):
        return None
    return PlainAttention(q, k, v, candidate.scale, candidate.mask, candidate.joined)


def _heads(origin: _Origin, map_BHNK: np.ndarray, shapes: dict[str, tuple[int, ...]]) -> Heads | None:
    import numpy as np

    shape = shapes[origin.start]
    if len(shape) != 3 or map_BHNK.ndim != 4 or map_BHNK.shape[0] != shape[0] or map_BHNK.shape[2] != shape[1]:
        return None
    columns_HK = map_BHNK[0, :, 0, :]
    rows_BN = np.arange(shape[0] * shape[1]).reshape(shape[:2]) * shape[2]
    plain = np.array_equal(map_BHNK, rows_BN[:, None, :, None] + columns_HK[None, :, None, :])
    if not plain or len(np.unique(columns_HK)) < columns_HK.size:
        return None
    return Heads(origin.linear, columns_HK)
