"""Attention of a decoder, over its cache or over what an encoder kept, as one com.microsoft MultiHeadAttention node.

Matched by its operators, from the softmax outwards. The cache must be a causal one: a key is hidden from the queries
before it and from no other. B batch, N queries, M keys, P of them cached, H heads, K head size.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export import graph
from export.attention_trace import KeyMask, Wiring, plain_masks, random_inputs
from runtime import ort, states

_HEADS, _TURNED = [0, 2, 1, 3], [0, 1, 3, 2]
#: What a causal mask without a window is made with.
_CAUSAL = frozenset(["Not", "Unsqueeze", "LessOrEqual", "Range", "Squeeze", "Shape", "Add", "Concat", "Gather", "Cast"])
#: What hides a key is this or less.
_HIDING = -1e4
#: Sizes of chunk and past at which a mask is looked at.
_SIZES = (1, 2, 7)


@dataclass(frozen=True)
class _Found:
    """`query` (B,N,H*K), `keys` and `values`: of new tokens (B,N,H*K) behind the caches `past`, which become `present`,
    or whole (B,H,M,K) without. `hidden`: the causal mask."""

    query: str
    keys: str
    values: str
    joined: str
    scale: float
    past: tuple[str, ...] = ()
    present: tuple[str, ...] = ()
    mask: KeyMask | None = None
    hidden: str = ""


def fuse_cached(model: Any) -> int:
    """Put one node in place of each such attention of a model in memory; returns how many. What it replaces falls away
    as unused when the model is saved."""
    from onnx import TensorProto, helper

    shapes = graph.shapes(model)
    found = list(_candidates(model, shapes))
    masks = plain_masks(model, {one.mask for one in found if one.mask is not None})
    causal = _causal(model, {one.hidden for one in found if one.hidden})
    found = [one for one in found if one.mask in (None, *masks) and one.hidden in ("", *causal)]
    made = {name for node in model.graph.node for name in node.output}
    for one in found:
        mask = f"{one.mask.value}.int32" if one.mask else ""
        if one.mask and mask not in made:
            cast = helper.make_node("Cast", [one.mask.value], [mask], name=f"{mask}/Cast", to=TensorProto.INT32)
            model.graph.node.insert(0, cast)
            made.add(mask)
        node = helper.make_node(
            "MultiHeadAttention",
            [one.query, one.keys, one.values, "", mask, "", *one.past],
            [one.joined, *one.present],
            name=f"{one.joined}/MultiHeadAttention",
            domain=graph.MICROSOFT,
            num_heads=_heads(shapes, one),
            scale=one.scale,
            unidirectional=int(bool(one.past)),
            mask_filter_value=one.mask.fill if one.mask else None,
        )
        gone = {one.joined, *one.present}
        place = next(at for at, other in enumerate(model.graph.node) if one.joined in other.output)
        model.graph.node[place].CopyFrom(node)
        kept = [other for other in model.graph.node if other.name == node.name or gone.isdisjoint(other.output)]
        graph.set_nodes(model, kept)
    if found:
        graph.use_microsoft(model)
    return len(found)


def _candidates(model: Any, shapes: dict[str, tuple[int | str, ...]]) -> Iterator[_Found]:
    wiring = Wiring(model)
    outputs = {one.name for one in model.graph.output}

    def behind(name: str, op: str, perm: list[int] | None = None) -> str:
        """What a node of this kind reads to make the value; "" if another made it."""
        node = wiring.maker.get(name)
        if node is None or node.op_type != op or (perm and graph.attribute(node, "perm") != perm):
            return ""
        return str(node.input[0])

    def ahead(name: str, op: str) -> Any:
        """The only node that reads the value, if it is of this kind."""
        readers = wiring.readers[name]
        return readers[0] if len(readers) == 1 and readers[0] is not None and readers[0].op_type == op else None

    def grown(name: str) -> tuple[str, str] | None:
        """The cache and the new rows (B,N,H*K) that make up a state."""
        node = wiring.maker.get(name)
        if node is None or node.op_type != "Concat" or len(node.input) != 2 or not states.is_past(node.input[0]):
            return None
        new = behind(behind(node.input[1], "Transpose", _HEADS), "Reshape")
        return (node.input[0], new) if new and name in outputs else None

    for softmax in model.graph.node:
        if softmax.op_type != "Softmax" or graph.attribute(softmax, "axis", -1) not in (-1, 3):
            continue
        masked, mask = wiring.before_mask(softmax.input[0])
        hidden = ""
        if mask is None and (where := wiring.maker.get(masked)) is not None and where.op_type == "Where":
            if (wiring.scalar(where.input[1]) or 0.0) > _HIDING:
                continue
            hidden, masked = where.input[0], where.input[2]
        logits, scale = wiring.before_scale(masked)
        product, mixed = wiring.maker.get(logits), ahead(softmax.output[0], "MatMul")
        if product is None or product.op_type != "MatMul" or mixed is None or mixed.input[0] != softmax.output[0]:
            continue
        heads, inner = wiring.before_scale(product.input[0])
        query = behind(behind(heads, "Transpose", _HEADS), "Reshape")
        keys, values = behind(product.input[1], "Transpose", _TURNED), mixed.input[1]
        turned = ahead(mixed.output[0], "Transpose")
        joined = None if turned is None else ahead(turned.output[0], "Reshape")
        alike = shapes.get(keys, ())[1::2] == shapes.get(values, (0,))[1::2] == shapes.get(heads, ())[1::2]
        if not query or not keys or joined is None or not alike or not isinstance(shapes[keys][1], int):
            continue
        key, value = grown(keys), grown(values)
        if key and value and hidden and mask is None:
            past, present = (key[0], value[0]), (keys, values)
            yield _Found(query, key[1], value[1], joined.output[0], scale * inner, past, present, hidden=hidden)
        elif not key and not value and not hidden and states.is_memory(keys) and states.is_memory(values):
            yield _Found(query, keys, values, joined.output[0], scale * inner, mask=mask)


def _heads(shapes: dict[str, tuple[int | str, ...]], one: _Found) -> int:
    return int(shapes[one.present[0] if one.present else one.keys][1])


def _causal(model: Any, names: set[str]) -> set[str]:
    """Those of these masks that hide from each query the keys behind it, whatever the inputs hold."""
    import numpy as np
    from onnx import TensorProto, helper

    names = {name for name in names if _made_with(model, name) <= _CAUSAL}
    if not names:
        return set()
    probe = graph.copied(model)
    del probe.graph.output[:]
    probe.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.BOOL, None) for name in sorted(names))
    graph.drop_unused(probe)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "masks.onnx")
        path.write_bytes(probe.SerializeToString())
        backend = ort.load(path, threads=1)
        for size in _SIZES:
            wanted = np.arange(2 * size) > np.arange(size, 2 * size)[:, None]
            made = backend.run(random_inputs(backend.inputs, size))
            names = {name for name in names if np.array_equal(made[name].reshape(size, -1), wanted)}
    return names


def _made_with(model: Any, name: str) -> set[str]:
    """Operators that make a value."""
    makers = {output: node for node in model.graph.node for output in node.output}
    found, left = set[str](), [name]
    while left:
        node = makers.get(left.pop())
        if node is not None:
            found.add(node.op_type)
            left += node.input
    return found
