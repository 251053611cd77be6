"""int8 numbers as uint8 ones: the same products, and exact on every processor."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.apart import store_apart
from runtime import ort
from runtime.recoding.int8 import recoded

INT8, FLOAT = TensorProto.INT8, TensorProto.FLOAT
#: Sums of two products of these do not fit into 16 bits.
WEIGHTS = np.full((64, 64), 127, np.int8)
PIXELS = np.full((2, 64), 255, np.uint8)


def saved(path: Path, nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto], **ends: list[object]) -> Path:
    values = {name: helper.make_tensor_value_info(name, *how) for name, how in ends.items()}
    first, *others = values.values()
    graph = helper.make_graph(nodes, "g", [first], others, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def product(x: str, weight: str, out: str, zero: str = "zero") -> onnx.NodeProto:
    return helper.make_node("MatMulInteger", [x, weight, "", zero] if zero else [x, weight], [out])


def zero_point(value: int = -3) -> onnx.TensorProto:
    """As ONNX Runtime's quantizer writes it: not raw, in 32-bit numbers."""
    return helper.make_tensor("zero", INT8, [], [value])


def shared(path: Path) -> Path:
    """One weight that two products read."""
    nodes = [product("x", "w", "a"), product("x", "w", "b"), helper.make_node("Add", ["a", "b"], ["y"])]
    ends = {"x": (TensorProto.UINT8, ["n", 64]), "y": (TensorProto.INT32, None)}
    return saved(path, nodes, [numpy_helper.from_array(WEIGHTS, "w"), zero_point()], **ends)


def looped(path: Path) -> Path:
    """A Scan whose body reads one weight of the graph around it, and another that is handed out, one a loop."""
    body_nodes = [
        helper.make_node("Cast", ["s"], ["s8"], to=TensorProto.UINT8),
        product("s8", "w", "a"),
        product("s8", "own", "b"),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Mod", ["c", "many"], ["t"]),
    ]
    states = [helper.make_tensor_value_info(name, TensorProto.INT32, [None, 64]) for name in ("s", "t")]
    own = helper.make_tensor_value_info("own", INT8, [64, 64])
    body = helper.make_graph(body_nodes, "body", [states[0], own], [states[1]])
    nodes = [helper.make_node("Scan", ["x", "stack"], ["y"], body=body, num_scan_inputs=1)]
    constants = [
        numpy_helper.from_array(WEIGHTS, "w"),
        numpy_helper.from_array(np.stack([WEIGHTS, WEIGHTS - 90, -WEIGHTS]), "stack"),
        numpy_helper.from_array(np.array(251, np.int32), "many"),
        zero_point(),
    ]
    return saved(path, nodes, constants, x=(TensorProto.INT32, ["n", 64]), y=(TensorProto.INT32, None))


def loop_by_hand(x: np.ndarray) -> np.ndarray:
    for own in (WEIGHTS, WEIGHTS - 90, -WEIGHTS):
        weight = WEIGHTS.astype(np.int64) + 3 + own.astype(np.int64) + 3
        x = (x.astype(np.uint8).astype(np.int64) @ weight) % 251
    return x


def asked(file: str | bytes, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"x": x})[0]
    return found


def test_a_weight_that_two_products_share_gives_exact_sums_on_every_processor(tmp_path: Path) -> None:
    path = shared(tmp_path / "m.onnx")
    wanted = 2 * (PIXELS.astype(np.int64) @ (WEIGHTS.astype(np.int64) + 3))
    bytes_ = recoded(path)
    assert bytes_ is not None
    assert (asked(bytes_, PIXELS) == wanted).all()
    assert (ort.load(path).run({"x": PIXELS})["y"] == wanted).all()


def test_the_body_of_a_loop_gives_exact_sums_on_every_processor(tmp_path: Path) -> None:
    path, x = looped(tmp_path / "m.onnx"), np.arange(128, dtype=np.int32).reshape(2, 64) + 100
    bytes_ = recoded(path)
    assert bytes_ is not None
    assert (asked(bytes_, x) == loop_by_hand(x)).all()
    assert (ort.load(path).run({"x": x})["y"] == loop_by_hand(x)).all()


def test_only_numbers_and_their_types_differ(tmp_path: Path) -> None:
    path = looped(tmp_path / "m.onnx")
    bytes_ = recoded(path)
    assert bytes_ is not None
    mine, wanted = onnx.load_from_string(bytes_), onnx.load(path)
    for one in wanted.graph.initializer:
        if one.data_type == INT8:
            array = numpy_helper.to_array(one).astype(np.int16) + 128
            one.CopyFrom(numpy_helper.from_array(array.astype(np.uint8), one.name))
    wanted.graph.node[0].attribute[0].g.input[1].type.tensor_type.elem_type = TensorProto.UINT8
    assert mine == wanted


def test_rounded_values_keep_their_numbers(tmp_path: Path) -> None:
    """QuantizeLinear and DequantizeLinear round and clip as before, a value at the edge of the range too."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    constants = [numpy_helper.from_array(np.array(0.5, np.float32), "scale"), zero_point(0)]
    path = saved(tmp_path / "m.onnx", nodes, constants, x=(FLOAT, ["n"]), y=(FLOAT, None))
    x = np.array([-100, -64, -63.8, -0.25, 0, 0.25, 0.75, 63.4, 63.5, 100], np.float32)
    bytes_ = recoded(path)
    assert bytes_ is not None
    assert [one.data_type for one in onnx.load_from_string(bytes_).graph.initializer] == [FLOAT, TensorProto.UINT8]
    assert (asked(bytes_, x) == asked(str(path), x)).all()


def test_weights_that_lie_in_a_file_beside_the_model_are_read(tmp_path: Path) -> None:
    path = shared(tmp_path / "m.onnx")
    store_apart([path], tmp_path / "m.onnx.data")
    assert path.stat().st_size < 1000
    wanted = 2 * (PIXELS.astype(np.int64) @ (WEIGHTS.astype(np.int64) + 3))
    bytes_ = recoded(path)
    assert bytes_ is not None
    assert (asked(bytes_, PIXELS) == wanted).all()
    (tmp_path / "m.onnx.data").unlink()
    assert recoded(path) is None


@pytest.mark.parametrize("where", ["../m.onnx.data", "/etc/hostname"])
def test_weights_outside_the_folder_are_not_read(where: str, tmp_path: Path) -> None:
    path = shared(tmp_path / "m.onnx")
    store_apart([path], tmp_path / "m.onnx.data")
    model = onnx.load(path, load_external_data=False)
    next(one for one in model.graph.initializer if one.external_data).external_data[0].value = where
    onnx.save(model, path)
    assert recoded(path) is None


def table(path: Path) -> Path:
    """int8 numbers that are cast, without a zero point."""
    nodes = [
        helper.make_node("Gather", ["w", "x"], ["row"]),
        helper.make_node("Cast", ["row"], ["y"], to=FLOAT),
    ]
    return saved(path, nodes, [numpy_helper.from_array(WEIGHTS, "w")], x=(TensorProto.INT64, ["n"]), y=(FLOAT, None))


def without_zero_point(path: Path) -> Path:
    ends = {"x": (TensorProto.UINT8, ["n", 64]), "y": (TensorProto.INT32, None)}
    return saved(path, [product("x", "w", "y", "")], [numpy_helper.from_array(WEIGHTS, "w")], **ends)


def for_the_caller(path: Path) -> Path:
    """int8 numbers that leave the model."""
    constants = [numpy_helper.from_array(np.array(0.5, np.float32), "scale"), zero_point(0)]
    nodes = [helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"])]
    return saved(path, nodes, constants, x=(FLOAT, ["n"]), y=(INT8, None))


def floats(path: Path) -> Path:
    return saved(path, [helper.make_node("Relu", ["x"], ["y"])], [], x=(FLOAT, ["n"]), y=(FLOAT, None))


@pytest.mark.parametrize("make", [table, without_zero_point, for_the_caller, floats])
def test_what_has_no_zero_point_or_leaves_the_model_stays_as_it_is(make: object, tmp_path: Path) -> None:
    assert recoded(make(tmp_path / "m.onnx")) is None  # type: ignore[operator]


def test_damaged_files_are_left_to_onnxruntime(tmp_path: Path) -> None:
    whole, path = looped(tmp_path / "m.onnx").read_bytes(), tmp_path / "damaged.onnx"
    rng = random.Random(0)
    for _ in range(300):
        damaged = bytearray(whole[: rng.randrange(len(whole))] if rng.random() < 0.3 else whole)
        for _ in range(rng.randint(1, 4)):
            if damaged:
                damaged[rng.randrange(min(len(damaged), 600))] = rng.randrange(256)
        path.write_bytes(bytes(damaged))
        found = recoded(path)
        assert found is None or isinstance(found, bytes)
