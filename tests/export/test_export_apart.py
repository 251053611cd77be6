"""Weights in a file that several models share: the same answers, each weight stored once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from export import graph
from export.apart import ALIGNMENT, store_apart, stored_bytes
from runtime import ort
from targets.errors import InputError


def chain(path: Path, matrices: list[np.ndarray]) -> Path:
    """x times each matrix in turn, plus a vector too small to be stored apart."""
    size = len(matrices[0])
    nodes = [
        helper.make_node("MatMul", [f"x{place}", f"w{place}"], [f"x{place + 1}"]) for place in range(len(matrices))
    ]
    nodes.append(helper.make_node("Add", [f"x{len(matrices)}", "bias"], ["y"]))
    weights = [numpy_helper.from_array(matrix, f"w{place}") for place, matrix in enumerate(matrices)]
    weights.append(numpy_helper.from_array(np.ones(size, np.float32), "bias"))
    sides = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name in ("x0", "y")
    ]  # fmt: skip
    body = helper.make_graph(nodes, "chain", sides[:1], sides[1:], weights)
    path.write_bytes(
        helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    )
    return path


@settings(max_examples=15, deadline=None)
@given(
    size=st.integers(16, 40),
    uses=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=3),
    seed=st.integers(0, 99),
)
def test_models_that_share_a_file_answer_as_before_and_weights_are_there_once(
    tmp_path_factory: pytest.TempPathFactory, size: int, uses: list[list[int]], seed: int
) -> None:
    folder = tmp_path_factory.mktemp("apart")
    random = np.random.default_rng(seed)
    pool = [random.standard_normal((size, size)).astype(np.float32) / size for _ in range(4)]
    files = [chain(folder / f"{place}.onnx", [pool[one] for one in some]) for place, some in enumerate(uses)]
    x = {"x0": random.standard_normal((3, size)).astype(np.float32)}
    before = [ort.load(file, threads=1).run(x)["y"] for file in files]
    saved = store_apart(files, folder / "shared.data")
    matrix = size * size * 4
    different = len({one for some in uses for one in some})
    assert saved == (sum(map(len, uses)) - different) * matrix
    assert different * matrix <= (folder / "shared.data").stat().st_size < different * (matrix + ALIGNMENT)
    for file, wanted, some in zip(files, before, uses, strict=True):
        assert np.array_equal(ort.load(file, threads=1).run(x)["y"], wanted)
        assert stored_bytes(file) == file.stat().st_size + len(set(some)) * matrix
        assert np.array_equal(graph.weights(graph.load(file))["w0"], pool[some[0]])
        onnx.checker.check_model(str(file))


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_weights_that_are_not_there_are_one_clear_error(damage: str, tmp_path: Path) -> None:
    file = chain(tmp_path / "model.onnx", [np.ones((20, 20), np.float32)])
    store_apart([file], tmp_path / "model.onnx.data")
    if damage == "missing":
        (tmp_path / "model.onnx.data").unlink()
    else:
        (tmp_path / "model.onnx.data").write_bytes(b"12")
    with pytest.raises(InputError, match=r"model\.onnx: weights in another file: "):
        graph.load(file)
