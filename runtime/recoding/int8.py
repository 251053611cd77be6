"""An ONNX file whose int8 numbers are uint8 ones: 128 more, and their zero points too, so that it means the same.

ONNX Runtime's kernel for uint8 x int8 adds two products in 16 bits on x86 without VNNI, and these sums saturate. Its
kernel for uint8 x uint8 does not. ONNX Runtime's own way there, `session.x64quantprecision`, cannot load a weight that
is read twice, and passes over what the body of a loop reads: looped models have both.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from runtime.recoding import wire
from runtime.recoding.wire import Field

_INT8, _UINT8 = 3, 2
#: The fields of ONNX's messages that are read here.
_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_NODE, _INITIALIZER, _INPUT, _OUTPUT, _VALUE, _SPARSE = 1, 5, 11, 12, 13, 15
_NODE_INPUT, _NODE_OUTPUT, _NODE_OP, _NODE_ATTRIBUTE = 1, 2, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_GRAPH = 1, 6
_DIMS, _TYPE, _INT32S, _NAME, _RAW, _EXTERNAL, _LOCATION = 1, 2, 5, 8, 9, 13, 14

#: Numbers that an operator reads less a zero point: the places of both.
_ZERO_POINTS: Mapping[str, tuple[tuple[int, int], ...]] = {
    "DequantizeLinear": ((0, 2),),
    "MatMulInteger": ((0, 2), (1, 3)),
    "QAttention": ((0, 6), (1, 7)),
}
#: Operators that hand on what they read, whatever it is.
_MOVES = ("Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")


class _Node(NamedTuple):
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, memoryview | None]  # the graph that an attribute holds, if it does


@dataclass
class _Values:
    """Which values must have one type, and which must stay as they are. `weights`: those stored as int8."""

    parents: dict[str, str] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    weights: set[str] = field(default_factory=set)

    def group(self, name: str) -> str:
        """What stands for all values of its type."""
        while self.parents.get(name, name) != name:
            name = self.parents[name]
        return name

    def same(self, one: str, other: str) -> None:
        """Both have one type."""
        first, second = self.group(one), self.group(other)
        self.parents[second] = first
        if second in self.kept:
            self.kept.add(first)

    def keep(self, *names: str) -> None:
        """These stay."""
        self.kept.update(map(self.group, names))

    def moves(self, name: str) -> bool:
        """Whether an int8 value of that name becomes uint8."""
        return self.group(name) not in self.kept


def recoded(path: Path) -> bytes | None:
    """The file's bytes with int8 as uint8; None where it holds no int8 that can be, so that it is opened as it is."""
    with path.open("rb") as stream:
        try:
            whole = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
            return _model(whole, path.parent)
        except (ValueError, OSError, RecursionError):  # damaged, or not ONNX: ONNX Runtime says what is wrong
            return None


def _model(whole: memoryview, folder: Path) -> bytes | None:
    parts = list(wire.fields(whole))
    graphs = [part for part in parts if part.number == _MODEL_GRAPH]
    if len(graphs) != 1 or any(part.number == _MODEL_FUNCTIONS for part in parts):
        return None
    values = _Values()
    _look(graphs[0].view, values)
    for part in wire.fields(graphs[0].view):
        if part.number in (_INPUT, _OUTPUT):
            values.keep(_name(part.view, 1))
        if part.number == _SPARSE:
            return None
    if not any(map(values.moves, values.weights)):
        return None
    graph = _Writer(values, folder).graph(graphs[0].view)
    return wire.written(wire.message(_MODEL_GRAPH, graph) if part is graphs[0] else part for part in parts)


def _look(graph: memoryview, values: _Values) -> None:
    """Note what the nodes of a graph, and of graphs within it, ask of their values' types."""
    for part in wire.fields(graph):
        if part.number == _INITIALIZER and _type(part.view) == _INT8:
            values.weights.add(_name(part.view, _NAME))
        if part.number != _NODE:
            continue
        node = _node(part.view)
        inner = [body for body in node.attributes.values() if body is not None]
        for body in inner:
            _look(body, values)
        if node.op == "Scan" and len(inner) == 1:
            _tie(node, inner[0], values)
        else:
            for body in inner:
                values.keep(*_ends(body, _INPUT), *_ends(body, _OUTPUT))
            _note(node, values)


def _tie(node: _Node, body: memoryview, values: _Values) -> None:
    """A Scan's inputs and outputs are those of its body."""
    for mine, other in ((node.inputs, _ends(body, _INPUT)), (node.outputs, _ends(body, _OUTPUT))):
        for one, inner in zip(mine, other, strict=True):
            values.same(one, inner)


def _note(node: _Node, values: _Values) -> None:
    def read(place: int) -> str:
        return node.inputs[place] if place < len(node.inputs) else ""

    if node.op == "QuantizeLinear" and read(2) and "output_dtype" not in node.attributes:
        values.same(read(2), node.outputs[0])
    elif node.op in _MOVES:
        values.same(read(0), node.outputs[0])
    elif node.op in _ZERO_POINTS:
        for value, zero in _ZERO_POINTS[node.op]:
            if read(zero):
                values.same(read(value), read(zero))
            else:
                values.keep(read(value))
    else:
        values.keep(*node.inputs, *node.outputs)


@dataclass
class _Writer:
    """Writes graphs anew. `folder` holds the files of weights that lie apart: those come into the bytes."""

    values: _Values
    folder: Path

    def graph(self, graph: memoryview) -> bytes:
        """The graph with the new types."""
        return wire.written(map(self._part, wire.fields(graph)))

    def _part(self, part: Field) -> Field:
        if part.number == _INITIALIZER:
            return wire.message(_INITIALIZER, self._tensor(part.view))
        if part.number in (_INPUT, _OUTPUT, _VALUE):
            return wire.message(part.number, self._value(part.view))
        if part.number == _NODE:
            return wire.message(_NODE, wire.written(map(self._attribute, wire.fields(part.view))))
        return part

    def _attribute(self, part: Field) -> Field:
        """An attribute of a node with the graph that it holds, or another field as it is."""
        if part.number != _NODE_ATTRIBUTE:
            return part
        inner = [
            wire.message(one.number, self.graph(one.view)) if one.number == _ATTRIBUTE_GRAPH else one
            for one in wire.fields(part.view)
        ]
        return wire.message(_NODE_ATTRIBUTE, wire.written(inner))

    def _tensor(self, tensor: memoryview) -> bytes | memoryview:
        parts, kind = list(wire.fields(tensor)), _type(tensor)
        moves = kind == _INT8 and self.values.moves(_name(tensor, _NAME))
        apart = any(part.number == _LOCATION and part.integer for part in parts)
        if not moves and not apart:
            return tensor
        numbers = _apart(parts, self.folder) if apart else _int8(parts)
        kept = [part for part in parts if part.number in (_DIMS, _NAME)]
        if not moves:
            return wire.written([*kept, wire.number(_TYPE, kind), wire.message(_RAW, numbers)])
        flipped = (np.frombuffer(numbers, np.uint8) ^ 128).tobytes()
        return wire.written([*kept, wire.number(_TYPE, _UINT8), wire.message(_RAW, flipped)])

    def _value(self, value: memoryview) -> bytes | memoryview:
        if not self.values.moves(_name(value, 1)):
            return value
        return _deep(value, (2, 1, 1))


def _deep(whole: memoryview, way: tuple[int, ...]) -> bytes:
    """A message whose number at the end of this way of fields is uint8 where it was int8."""
    first, *rest = way
    parts = []
    for part in wire.fields(whole):
        if part.number == first and rest:
            part = wire.message(first, _deep(part.view, tuple(rest)))
        elif part.number == first and part.value == _INT8:
            part = wire.number(first, _UINT8)
        parts.append(part)
    return wire.written(parts)


def _int8(parts: list[Field]) -> bytes | memoryview:
    """The numbers of an int8 tensor: raw, or as an array of 32-bit ones."""
    for part in parts:
        if part.number == _RAW:
            return part.view
    found: list[int] = []
    for part in parts:
        if part.number == _INT32S:
            found += [part.value] if isinstance(part.value, int) else wire.packed(part.view)
    return bytes(number & 255 for number in found)


def _apart(parts: list[Field], folder: Path) -> bytes:
    """The bytes of a tensor that lies in a file beside the model. Raises ValueError for another place."""
    entries = [part.view for part in parts if part.number == _EXTERNAL]
    where = {_name(entry, 1): _name(entry, 2) for entry in entries}
    name = where.get("location", "")
    if not name or Path(name).name != name:
        raise ValueError("weights lie elsewhere")
    with (folder / name).open("rb") as stream:
        stream.seek(int(where.get("offset", "0")))
        return stream.read(int(where["length"]) if "length" in where else -1)


def _node(node: memoryview) -> _Node:
    op, inputs, outputs = "", list[str](), list[str]()
    attributes: dict[str, memoryview | None] = {}
    for part in wire.fields(node):
        if part.number == _NODE_OP:
            op = part.text
        elif part.number == _NODE_INPUT:
            inputs.append(part.text)
        elif part.number == _NODE_OUTPUT:
            outputs.append(part.text)
        elif part.number == _NODE_ATTRIBUTE:
            bodies = [one.view for one in wire.fields(part.view) if one.number == _ATTRIBUTE_GRAPH]
            attributes[_name(part.view, _ATTRIBUTE_NAME)] = bodies[0] if bodies else None
    return _Node(op, tuple(inputs), tuple(outputs), attributes)


def _ends(graph: memoryview, which: int) -> list[str]:
    """Names of a graph's inputs or outputs."""
    return [_name(part.view, 1) for part in wire.fields(graph) if part.number == which]


def _type(tensor: memoryview) -> int:
    return next((part.integer for part in wire.fields(tensor) if part.number == _TYPE), 0)


def _name(whole: memoryview, place: int) -> str:
    found: Iterator[str] = (part.text for part in wire.fields(whole) if part.number == place)
    return next(found, "")
