"""A looped model's graph with its loop as one Scan node, in place of the nodes of each loop.

The exporter unrolls loops. Here the run of equal stretches of nodes is found again in any finished file (fp32, fp16,
int8): the stretch becomes the body of a Scan, what it hands on becomes the state, weights that are the same in every
loop stay where they are, and those of each loop are stacked, to be handed out one a loop. The weights' bytes stay and
the nodes become few; runtimes cannot fuse across the loop's border, so measure before choosing it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from export import graph
from targets.errors import InputError

#: Shorter stretches are not worth a Scan.
LEAST_NODES = 4
#: Equal constants of fewer elements do not make a stretch a loop: they are shapes and epsilons.
LEAST_SHARED = 256


@dataclass(frozen=True)
class Rolled:
    """What became of the file: how often the Scan runs its body, the nodes before and now (without the body's), and
    why TensorRT does not take it, empty if it does."""

    loops: int
    nodes_before: int
    nodes: int
    bytes: int
    unfit_for_tensorrt: str


@dataclass(frozen=True)
class _Stretch:
    """`count` stretches of `length` of the nodes that depend on the inputs, from `start` on."""

    start: int
    length: int
    count: int


@dataclass
class _Body:
    """The Scan's body at work. `made`: for each loop, the place of every value that it makes; `moving`: the values
    that depend on an input; `makers`: the node that makes a value."""

    made: list[dict[str, int]]
    moving: set[str]
    makers: Mapping[str, Any]
    carried: dict[str, str] = field(default_factory=dict)  # initial value -> value at the end of the first loop
    stacked: dict[tuple[str, ...], str] = field(default_factory=dict)  # weights of the loops -> name in the body
    copies: dict[tuple[str, ...], str] = field(default_factory=dict)  # constants of the loops -> name in the body
    nodes: list[Any] = field(default_factory=list)

    def read(self, names: tuple[str, ...]) -> str | None:
        """The name in the body of what is `names` in the loops; None if the loops are wired otherwise."""
        first, *others = names
        if first in self.made[0]:
            place = self.made[0][first]
            alike = all(of.get(name) == place for name, of in zip(others, self.made[1:], strict=True))
            return _inner(first) if alike else None
        if others[0] in self.made[0]:
            place = self.made[0][others[0]]
            alike = all(of.get(name) == place for name, of in zip(others, self.made, strict=False))
            alike = alike and first in self.moving and self.carried.setdefault(first, others[0]) == others[0]
            return _inner(first) if alike else None
        if not self.moving.isdisjoint(names):
            return first if len(set(names)) == 1 else None
        return self._constant(names)

    def _constant(self, names: tuple[str, ...]) -> str | None:
        """A weight, where it is or handed out by the Scan; or a copy of the node that makes a constant from some, so
        that runtimes find it beside its reader."""
        makers = [self.makers[name] for name in names if name in self.makers]
        if not makers and len(set(names)) == 1:
            return names[0]
        if not makers:
            return self.stacked.setdefault(names, _inner(names[0]))
        if names in self.copies:
            return self.copies[names]
        if len(makers) < len(names) or len({_kind(maker) for maker in makers}) > 1 or len(makers[0].output) > 1:
            return None
        node = graph.copied(makers[0])
        for slot in range(len(node.input)):
            source = self._constant(tuple(maker.input[slot] for maker in makers))
            if source is None:
                return None
            node.input[slot] = source
        node.output[0], node.name = _inner(names[0]), _inner(node.name)
        self.nodes.append(node)
        return self.copies.setdefault(names, node.output[0])


def roll_loops(source: Path, path: Path) -> Rolled:
    """Write the graph of `source` with its looped blocks as a Scan.

    Raises InputError if it holds no loop: no stretch of nodes that follows itself with the same weights.
    """
    model = graph.load(source)
    before = len(model.graph.node)
    dynamic = _dynamic(model)
    for stretch in _candidates(model, dynamic):
        rolled = _rolled(model, dynamic, stretch)
        if rolled is not None:
            return Rolled(
                loops=stretch.count,
                nodes_before=before,
                nodes=len(rolled.graph.node),
                bytes=graph.save(rolled, path),
                unfit_for_tensorrt=_unfit_for_tensorrt(rolled),
            )
    raise InputError(
        f"{source.name} holds no loop: no run of equal nodes that shares its weights; tie-layers makes one, or leave "
        'precision.loops at "unrolled"'
    )


def _unfit_for_tensorrt(model: Any) -> str:
    """What of each loop's own the builder refuses to have handed out: seen with TensorRT for RTX 1.7.1."""
    weights = graph.weights(model)
    scan = next(node for node in model.graph.node if node.op_type == "Scan")
    stacks = [weights[name] for name in scan.input if name in weights]
    if any(stack.dtype.itemsize == 1 for stack in stacks):
        return "TensorRT takes int8 numbers as constants only"
    if any(size % 2 for stack in stacks if stack.ndim > 2 for size in stack.shape[1:]):
        return "TensorRT fails on a Scan that hands out matrices of an odd size; choose even ranks"
    return ""


def _dynamic(model: Any) -> list[Any]:
    """The nodes that depend on an input, in order."""
    known = {value.name for value in model.graph.input}
    found = []
    for node in model.graph.node:
        if not known.isdisjoint(graph.names_read(node)):
            known.update(node.output)
            found.append(node)
    return found


def _candidates(model: Any, dynamic: list[Any]) -> Iterator[_Stretch]:
    """Runs of equal stretches, those that cover most first; for each, trimmed to where weights are shared."""
    kinds = [_kind(node) for node in dynamic]
    sizes = {one.name: _elements(one) for one in model.graph.initializer}
    constants = _constants(model, dynamic, sizes)
    found = []
    for length in range(LEAST_NODES, len(kinds) // 2 + 1):
        run = 0
        for index in range(len(kinds) - length, -1, -1):
            same = index + length < len(kinds) and kinds[index] == kinds[index + length]
            run = run + 1 if same else 0
            if run >= length and (index == 0 or kinds[index - 1] != kinds[index - 1 + length]):
                found.append((run, index, length))
    for run, index, length in sorted(found, key=lambda one: (-one[0], one[2])):
        shifted = [_Stretch(index + shift, length, (run - shift) // length + 1) for shift in range(length)]
        sharing = [_sharing(stretch, dynamic, constants, sizes) for stretch in shifted]
        yield from sorted((one for one in sharing if one is not None), key=lambda one: -one.count)


def _constants(model: Any, dynamic: list[Any], sizes: Mapping[str, int]) -> dict[str, str]:
    """For each value that no input moves, the largest stored weight that it is made from."""
    moving = {name for node in dynamic for name in node.output}
    origin = {name: name for name in sizes}
    for node in model.graph.node:
        if moving.isdisjoint(node.output):
            sources = [origin[name] for name in node.input if name in origin]
            if sources:
                origin |= dict.fromkeys(node.output, max(sources, key=lambda name: sizes[name]))
    return origin


def _elements(weight: Any) -> int:
    return math.prod(weight.dims)


def _sharing(
    stretch: _Stretch, dynamic: list[Any], constants: Mapping[str, str], sizes: Mapping[str, int]
) -> _Stretch | None:
    """The longest part of a run in which every constant is one for all loops or another in each, and some large one is
    one for all; None if there is none."""
    rows: list[list[str]] = []
    for loop in range(stretch.count):
        first = stretch.start + loop * stretch.length
        nodes = dynamic[first : first + stretch.length]
        rows.append([constants[name] for node in nodes for name in node.input if name in constants])
    if any(len(row) != len(rows[0]) for row in rows):
        return None
    for count in range(stretch.count, 1, -1):
        for first in range(stretch.count - count + 1):
            columns = list(zip(*rows[first : first + count], strict=True))
            kinds = {len(set(column)) for column in columns}
            shared = any(len(set(column)) == 1 and sizes[column[0]] >= LEAST_SHARED for column in columns)
            if kinds <= {1, count} and shared:
                return _Stretch(stretch.start + first * stretch.length, stretch.length, count)
    return None


def _rolled(model: Any, dynamic: list[Any], stretch: _Stretch) -> Any | None:
    """The model with this run as a Scan, or None if its stretches are not wired alike."""
    end = stretch.start + stretch.count * stretch.length
    loops = [dynamic[first : first + stretch.length] for first in range(stretch.start, end, stretch.length)]
    body = _Body(
        made=[{name: place for place, name in enumerate(_outputs(nodes))} for nodes in loops],
        moving={name for node in dynamic for name in node.output} | {value.name for value in model.graph.input},
        makers={name: node for node in model.graph.node for name in node.output},
    )
    for place in range(stretch.length):
        node = graph.copied(loops[0][place])
        for slot in range(len(node.input)):
            name = body.read(tuple(nodes[place].input[slot] for nodes in loops))
            if name is None:
                return None
            node.input[slot] = name
        for slot, output in enumerate(node.output):
            node.output[slot] = _inner(output) if output else ""
        node.name = _inner(node.name)
        body.nodes.append(node)
    after = dynamic[end:]
    read_after = {name for node in after for name in graph.names_read(node)} | {one.name for one in model.graph.output}
    last = {place: name for name, place in body.made[-1].items()}
    results = [last[body.made[0][value]] for value in body.carried.values()]
    inside = {name for nodes in loops for name in _outputs(nodes)}
    if not results or len(set(results)) < len(results) or not (inside & read_after) <= set(results):
        return None
    scan, stacks = _scan(model, body, results)
    result = graph.copied(model)
    result.graph.initializer.extend(stacks)
    moving = {id(node) for node in dynamic}
    constant = [node for node in model.graph.node if id(node) not in moving]
    graph.set_nodes(result, [*constant, *dynamic[: stretch.start], scan, *after])
    return result


def _scan(model: Any, body: _Body, results: list[str]) -> tuple[Any, list[Any]]:
    """The Scan node and the stacked weights that it hands out."""
    import numpy as np
    from onnx import helper, numpy_helper

    weights, types = graph.weights(model), _types(model)

    def info(name: str, *known: str) -> Any:
        kind = next((types[one] for one in known if one in types), 1)  # what inference cannot tell is float
        return helper.make_tensor_value_info(_inner(name), kind, None)

    slices = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(weights[names[0]].dtype), weights[names[0]].shape
        )
        for names, name in body.stacked.items()
    ]
    inner = helper.make_graph(
        body.nodes,
        "loop",
        [*(info(first, first, end) for first, end in body.carried.items()), *slices],
        [info(end, end, first) for first, end in body.carried.items()],
    )
    stacks = [
        numpy_helper.from_array(np.stack([weights[name] for name in names]), f"{names[0]}/stacked")
        for names in body.stacked
    ]
    inputs = [*body.carried, *(one.name for one in stacks)]
    node = helper.make_node("Scan", inputs, results, name="loop/Scan", body=inner, num_scan_inputs=len(stacks))
    return node, stacks


def _outputs(nodes: Sequence[Any]) -> Iterator[str]:
    return (name for node in nodes for name in node.output if name)


def _inner(name: str) -> str:
    """The name of a value of the first loop in the body; ONNX forbids the names of the graph outside there."""
    return f"loop/{name}"


def _kind(node: Any) -> tuple[Any, ...]:
    """What two nodes have in common that do the same on other values."""
    attributes = sorted(one.SerializeToString(deterministic=True) for one in node.attribute)
    return node.op_type, node.domain, len(node.input), len(node.output), tuple(attributes)


def _types(model: Any) -> dict[str, int]:
    """Element type of every value that inference knows."""
    found = graph.inferred(model).graph
    values = (*found.value_info, *found.input, *found.output)
    return {value.name: value.type.tensor_type.elem_type for value in values if value.type.tensor_type.elem_type}
