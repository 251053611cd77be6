"""Whether a graph's answer to a sample depends on the other samples of its batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: Operators that find one scale for a whole tensor while it runs, and so for all samples in it.
ONE_SCALE = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"})
#: What to tell of such a file wherever it is judged.
ASKED_ALONE = (
    "run one sample at a time: it rounds by the largest number of a batch, so neighbours change its predictions; "
    "static int8, fp16 and fp32 files have no such scale"
)


def depends_on_batch(path: Path) -> bool:
    """Does the ONNX file quantize activations dynamically, with one scale for a whole batch?"""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    return any(node.op_type in ONE_SCALE for graph in (model.graph, *model.functions) for node in _nodes(graph))


def _nodes(graph: Any) -> Iterator[Any]:
    """The nodes of a graph and of those inside of it (loops, branches)."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _nodes(inner)
