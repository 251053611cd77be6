"""Attention in int8 by TensorRT's rules: pairs before both products and behind the softmax, where it can be fused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from support.mini_models import images

from export import graph
from export.precision.attention import attentions, fusable, in_int8
from export.precision.int8_static import to_int8_static


@pytest.fixture
def batches() -> Iterator[dict[str, np.ndarray]]:
    return ({"pixel_values": images(4, seed)["pixel_values"].numpy()} for seed in range(3))


def attention(
    size: int = 16, values: int | None = None, rows: int | str = "n", length: int | str = "n", scale: bool = True
) -> Any:
    """softmax(q k^T / 4 + mask) v, by hand."""
    nodes = [
        helper.make_node("MatMul", ["q", "k"], ["logits"], name="first"),
        helper.make_node("Mul", ["logits", "quarter"], ["scaled"]) if scale else None,
        helper.make_node("Add", ["scaled" if scale else "logits", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["p"]),
        helper.make_node("MatMul", ["p", "v"], ["y"], name="second"),
    ]
    shapes = {"q": [1, 2, rows, size], "k": [1, 2, size, length], "v": [1, 2, length, values or size]}
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in {**shapes, "mask": [1, 1, rows, length]}.items()
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, rows, values or size])
    quarter = helper.make_tensor("quarter", TensorProto.FLOAT, [], [0.25])
    made = helper.make_graph([node for node in nodes if node], "attention", inputs, [output], [quarter])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("scale", [True, False])
def test_a_block_is_found_by_its_softmax(scale: bool) -> None:
    (found,) = attentions(attention(scale=scale))
    assert [node.name for node in found.products] == ["first", "second"]
    assert found.misfit(graph.shapes(attention(scale=scale))) is None


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (attention(size=12), "its heads have 12 channels; 16, 32, 64 are fused"),
        (attention(size=16, values=32), "queries have 16 channels and values 32"),
        (attention(rows=1), "its products have one row"),
        (attention(rows=600, length=600), "it is 600 long; up to 512 is fused"),
    ],
)
def test_what_tensorrt_does_not_fuse_is_left_alone_for_a_reason(model: Any, reason: str) -> None:
    (found,) = attentions(model)
    assert reason in str(found.misfit(graph.shapes(model))) and fusable(model) == []


def test_a_softmax_that_is_no_attention_is_none() -> None:
    model = attention()
    del model.graph.node[-1]
    assert attentions(model) == []


def test_every_product_of_attention_reads_int8_and_every_softmax_is_read_by_one(
    vit_file: Path, tmp_path: Path, batches: Iterator[dict[str, np.ndarray]]
) -> None:
    result = to_int8_static(vit_file, tmp_path / "q.onnx", batches, attention=True)
    model = onnx.load(result.path)
    maker = {name: node for node in model.graph.node for name in node.output}
    blocks = [node for node in onnx.load(vit_file).graph.node if node.op_type == "Softmax"]
    softmaxes = [node.output[0] for node in model.graph.node if node.op_type == "Softmax"]
    assert len(softmaxes) == len(blocks) > 0
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    constants = {one.name for one in model.graph.initializer}
    for node in products:
        assert all(maker[name].op_type == "DequantizeLinear" for name in node.input)
    scales = graph.weights(model)
    for name in softmaxes:
        (reader,) = (node for node in model.graph.node if name in node.input)
        assert reader.op_type == "QuantizeLinear" and scales[reader.input[1]] == np.float32(1 / 127)
    assert len(in_int8(model)) == len(blocks) and in_int8(onnx.load(vit_file)) == []
    for one in in_int8(model):
        (reader,) = (node for node in model.graph.node if one.second.output[0] in node.input)
        assert reader.op_type == "QuantizeLinear"
    between = [node for node in products if not constants & {maker[name].input[0] for name in node.input}]
    assert len(between) == 2 * len(softmaxes)


def test_int8_attention_costs_little_and_leaving_one_product_leaves_its_block(
    vit_file: Path, tmp_path: Path, batches: Iterator[dict[str, np.ndarray]]
) -> None:
    given = list(batches)
    fed = {"pixel_values": images(8, 9)["pixel_values"].numpy()}

    def answers(path: Path) -> np.ndarray:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, fed)[0])

    whole = to_int8_static(vit_file, tmp_path / "a.onnx", given, attention=True)
    plain = to_int8_static(vit_file, tmp_path / "b.onnx", given)
    size = np.abs(answers(vit_file)).max()
    assert 0 < np.abs(answers(whole.path) - answers(plain.path)).max() < 0.05 * size
    (first, *_) = fusable(graph.load(vit_file))
    one = to_int8_static(vit_file, tmp_path / "c.onnx", given, exclude=[first.second.name], attention=True)
    assert set(whole.changed) - set(one.changed) == {node.name for node in first.products}
