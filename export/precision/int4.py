"""4-bit weights for decoders on a CPU: ONNX Runtime's MatMulNBits, which reads activations in float32.

Weights are quantised in blocks along the input, one scale and zero point per block: round-to-nearest, no data needed.
Such a product reads an eighth of the bytes, which is what one token at a time waits for; for many tokens at once int8
is faster (docs/reference/export.md). The file is for ONNX Runtime alone.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from export import graph
from export.precision.result import Precision, check_names, describe
from export.precision.tables import quantise_tables
from export.quiet import quiet
from targets.errors import InputError

#: Inputs that share a scale: 32 keeps the error of a trained layer lowest, at 4.6 bits a weight.
BLOCK = 32
#: Sums in int8 (MatMulNBits' accuracy level 4): activations are quantised on the fly, per block.
_INT8_SUMS = 4


def to_int4(source: Path, path: Path, exclude: Collection[str] = ()) -> Precision:
    """Write the 4-bit form of a plain file. `exclude` names nodes to leave alone. Embedding tables become int8.

    Raises InputError for an unknown node or a graph without a matrix product to quantise.
    """
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    model = graph.load(source)
    graph.fold_transposes(model)
    weights = {one.name: one for one in model.graph.initializer}
    sites = [
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul" and node.input[1] in weights and len(weights[node.input[1]].dims) == 2
    ]
    check_names(exclude, sites)
    chosen = [name for name in sites if name not in exclude]
    if not chosen:
        raise InputError(f"{source.name} has no matrix product for 4-bit weights; leave the precision at fp32")
    tables = quantise_tables(model)
    with quiet():
        quantizer = MatMulNBitsQuantizer(
            model, block_size=BLOCK, is_symmetric=False, accuracy_level=_INT8_SUMS, nodes_to_include=chosen
        )
        quantizer.process()
    graph.save(quantizer.model.model, path)
    return describe("int4", source, path, [*tables, *chosen], sorted(exclude))
