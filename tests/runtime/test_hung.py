"""A model that gives no answer any more ends the command instead of stopping the line."""

import time

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image


def endless(turns):
    """The outputs are what a loop of as many turns leaves."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Mul", ["logits_in", "half"], ["logits_out"]),
        ],
        "turn",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("logits_in", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("logits_out", TensorProto.FLOAT, None),
        ],
    )
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["pixel_values", "axes"], ["means"], keepdims=0),
            helper.make_node("Concat", ["means", "means"], ["start"], axis=1),
            helper.make_node("Slice", ["start", "zero", "five", "one"], ["five_means"]),
            helper.make_node("Loop", ["turns", "", "five_means"], ["logits"], body=body),
        ],
        "endless",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 5])],
        [
            numpy_helper.from_array(np.array(turns), "turns"),
            numpy_helper.from_array(np.array([2, 3]), "axes"),
            numpy_helper.from_array(np.array([0]), "zero"),
            numpy_helper.from_array(np.array([5]), "five"),
            numpy_helper.from_array(np.array([1]), "one"),
            numpy_helper.from_array(np.array(0.5, np.float32), "half"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def bundle_of(maker, turns):
    folder = maker.write()
    onnx.save(endless(turns), folder / "model.onnx")
    maker.seal(folder)
    return folder


def test_a_call_that_takes_too_long_ends_the_command_with_three(run_module, maker, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    began = time.monotonic()
    done = run_module("runtime.run", bundle_of(maker, 10**15), tmp_path / "a.png", "--hung-after", "1", timeout=100)
    assert done.returncode == 3 and time.monotonic() - began < 90
    assert done.stderr.splitlines()[-1] == "error: CPUExecutionProvider gave no answer for 1 s; start again"


def test_calls_that_take_less_are_left_alone(run_module, maker, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    done = run_module("runtime.run", bundle_of(maker, 10), tmp_path, "--hung-after", "20")
    assert done.returncode == 0, done.stderr
