"""The file for ONNX Runtime on a CPU: every plain attention becomes one com.microsoft Attention node, and that of a
translator's decoder, over its cache or over the source, one MultiHeadAttention node (`export.cached_attention`).

Measured (docs/reference/export.md): the fused node, in float or quantized, saves thread hand-overs, transposes and
copies. The other fusions of ONNX Runtime's transformer optimizer cost more than they save on a CPU and are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export import graph
from export.attention_trace import Heads, PlainAttention, plain_attentions, random_inputs
from export.cached_attention import fuse_cached
from export.numerics import Numerics, check_files
from runtime import ort

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class CpuGraph:
    """What was fused, and how far the file is from its source."""

    fused: int
    softmaxes: int
    nodes: int
    source_nodes: int
    bytes: int
    numerics: Numerics


def optimize_for_cpu(source: Path, path: Path) -> CpuGraph:
    """Write the fused form of a plain exported file; its numbers are held against the source at sizes 1, 2 and 7.

    A mask of keys goes into the node. Attention with another mask (causal without a cache), rotary positions, shared
    key heads or a value size other than the key's stays as it is.
    Raises GateFailed if the numbers differ.
    """
    model = graph.load(source)
    before = len(model.graph.node)
    softmaxes = sum(node.op_type == "Softmax" for node in model.graph.node)
    found = plain_attentions(model)
    _fuse(model, found)
    cached = fuse_cached(model)
    size = graph.save(model, path)
    declared = ort.load(source, threads=1).inputs
    cases = [random_inputs(declared, dynamic) for dynamic in (1, 2, 7)]
    return CpuGraph(
        fused=len(found) + cached,
        softmaxes=softmaxes,
        nodes=len(model.graph.node),
        source_nodes=before,
        bytes=size,
        numerics=check_files(source, path, cases),
    )


def _fuse(model: Any, found: list[PlainAttention]) -> None:
    """Put one Attention node where each joined value was made; what it replaces falls away as unused."""
    from onnx import TensorProto, helper, numpy_helper

    weights = graph.weights(model)
    stored = {name: array.tobytes() for name, array in weights.items()}
    for attention in found:
        parts = (attention.q, attention.k, attention.v)
        names = []
        for kind, array in (("weight", _packed_weight(parts, weights)), ("bias", _packed_bias(parts, weights))):
            name = _free_name(f"{_layer(attention)}.{kind}", array.tobytes(), stored)
            names.append(name)
            if name not in stored:
                stored[name] = array.tobytes()
                model.graph.initializer.append(numpy_helper.from_array(array, name))
        mask = attention.mask
        node = helper.make_node(
            "Attention",
            [attention.q.linear.x, *names, *([f"{mask.value}.int32"] if mask else [])],
            [attention.joined],
            name=f"{attention.joined}/Attention",
            domain=graph.MICROSOFT,
            num_heads=attention.num_heads,
            scale=attention.scale,
            mask_filter_value=mask.fill if mask else None,
        )
        index = next(i for i, one in enumerate(model.graph.node) if attention.joined in one.output)
        model.graph.node[index].CopyFrom(node)
    for name in sorted({one.mask.value for one in found if one.mask is not None}):
        cast = helper.make_node("Cast", [name], [f"{name}.int32"], name=f"{name}/Cast", to=TensorProto.INT32)
        model.graph.node.insert(0, cast)
    if found:
        graph.use_microsoft(model)


def _free_name(name: str, data: bytes, stored: dict[str, bytes]) -> str:
    """`name`, or `name.1` ... if other data has it: a looped block has one weight, but may have several biases."""
    count = 0
    while stored.get(tried := f"{name}.{count}" if count else name, data) != data:
        count += 1
    return tried


def _layer(attention: PlainAttention) -> str:
    """What the names of the three weights share, and `qkv`: `blocks.0.mixer.qkv`."""
    names = [one.linear.weight.removesuffix(".T").split(".")[:-1] for one in (attention.q, attention.k, attention.v)]
    shared = [pieces[0] for pieces in zip(*names, strict=False) if len(set(pieces)) == 1]
    return ".".join([*(piece for piece in shared if piece != "qkv"), "qkv"])


def _packed_weight(parts: tuple[Heads, ...], weights: dict[str, np.ndarray]) -> np.ndarray:
    import numpy as np

    return np.concatenate([weights[one.linear.weight][:, one.columns.ravel()] for one in parts], axis=1)


def _packed_bias(parts: tuple[Heads, ...], weights: dict[str, np.ndarray]) -> np.ndarray:
    import numpy as np

    none = np.zeros(1 + max(int(one.columns.max()) for one in parts), np.float32)
    biases = [weights[one.linear.bias] if one.linear.bias else none for one in parts]
    return np.concatenate([bias[one.columns.ravel()] for bias, one in zip(biases, parts, strict=True)])
