"""Files whose answers depend on the other samples of a batch are known as such, and are asked one sample at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.judging.side import Side
from compress.judging.sides import open_side
from compress.tasks import get
from export.neighbours import ASKED_ALONE, depends_on_batch
from export.precision.int8_dynamic import to_int8_dynamic


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Two linear layers on images of 8 values."""
    generator = np.random.default_rng(0)
    weights = {"first": generator.normal(size=(8, 16)), "second": generator.normal(size=(16, 3))}
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["pixel_values"], ["flat"]),
            helper.make_node("MatMul", ["flat", "first"], ["hidden"]),
            helper.make_node("Relu", ["hidden"], ["active"]),
            helper.make_node("MatMul", ["active", "second"], ["logits"]),
        ],
        "two",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 1, 2, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    path = tmp_path / "plain.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.fixture
def dynamic(plain: Path, tmp_path: Path) -> Path:
    to_int8_dynamic(plain, tmp_path / "dynamic.onnx")
    return tmp_path / "dynamic.onnx"


def test_dynamic_quantization_is_found_also_inside_of_a_loop(plain: Path, dynamic: Path, tmp_path: Path) -> None:
    assert depends_on_batch(dynamic) and not depends_on_batch(plain)
    inner = onnx.load(dynamic).graph
    outer = helper.make_graph([helper.make_node("Loop", ["", "", ""], ["y"], body=inner)], "outer", [], [])
    onnx.save(helper.make_model(outer), tmp_path / "loop.onnx")
    assert depends_on_batch(tmp_path / "loop.onnx")


def opened(path: Path) -> Side:
    from dataclasses import replace

    return replace(open_side(str(path)), task=get("image-classification"))


def test_such_a_file_answers_as_if_there_were_no_other_sample(plain: Path, dynamic: Path) -> None:
    images = np.random.default_rng(1).normal(size=(6, 1, 2, 4)).astype(np.float32)
    images[5] *= 40  # one loud neighbour
    side = opened(dynamic)
    together = side.runner()({"pixel_values": images})["logits"]
    alone = [side.call({"pixel_values": images[k : k + 1]})["logits"] for k in range(6)]
    assert np.array_equal(together, np.concatenate(alone))
    assert not np.allclose(together, side.call({"pixel_values": images})["logits"], atol=0.1)
    assert side.most == 1 and any(ASKED_ALONE in note for note in side.notes)
    assert opened(plain).most > 1 and not opened(plain).notes
