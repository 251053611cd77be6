"""A session runs the right form of the model on the provider asked for and holds every call against the manifest."""

import numpy as np
import pytest
from support.runtime_toys import LABELS, oracle

from runtime.session import open_bundle
from targets.errors import EnvironmentLacks, GateFailed, InputError

STATE = {
    "task": "causal-lm",
    "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", "chunk", 2]}],
    "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", 2]}],
    "state": [{"past": "past_total", "present": "present_total", "dtype": "float32", "shape": ["batch", 2]}],
    "preprocessing": None,
    "postprocessing": None,
    "labels": None,
}


def pixels(batch=2, seed=3):
    return np.random.default_rng(seed).standard_normal((batch, 3, 8, 8)).astype(np.float32)


def onnx_bytes(model):
    return model.SerializeToString()


@pytest.fixture
def recurrent(maker):
    from support.runtime_toys import onnx_accumulator

    return maker.write(files={"model.onnx": onnx_bytes(onnx_accumulator())}, **STATE)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_outputs_are_the_models(bundle, batch):
    session = open_bundle(bundle)
    np.testing.assert_allclose(session.run({"pixel_values": pixels(batch)})["logits"], oracle(pixels(batch)), atol=1e-4)
    assert session.provider == "CPUExecutionProvider" and session.notes == ()
    assert session.describe() == "model.onnx (fp32) on CPUExecutionProvider, 1 thread"
    assert session.max_batch == 8
    assert session.manifest.labels == tuple(LABELS)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "input 'pixel_values' is missing"),
        ({"pixel_valuse": pixels()}, "unknown input 'pixel_valuse'.*nearest: 'pixel_values'"),
        ({"pixel_values": pixels().astype(np.float64)}, "is float64; allowed: float32"),
        ({"pixel_values": pixels().tolist()}, "is a list; allowed: a numpy array"),
        ({"pixel_values": pixels()[0]}, r"has shape \[3, 8, 8\]; allowed: \[batch, 3, 8, 8\]"),
        ({"pixel_values": pixels()[:, :, :7]}, r"has shape \[2, 3, 7, 8\]"),
        ({"pixel_values": pixels(0)}, r"has shape \[0, 3, 8, 8\]"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_before_running(bundle, inputs, message):
    with pytest.raises(InputError, match=message):
        open_bundle(bundle).run(inputs)


def test_a_sequence_longer_than_the_model_takes_is_refused(maker):
    from onnx import TensorProto, helper, numpy_helper

    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"])
    sums = helper.make_tensor_value_info("y", TensorProto.INT64, ["batch"])
    node = helper.make_node("ReduceSum", ["input_ids", "axis"], ["y"], keepdims=0)
    graph = helper.make_graph([node], "sums", [ids], [sums], [numpy_helper.from_array(np.array([1]), "axis")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    folder = maker.write(
        files={"model.onnx": onnx_bytes(model)},
        task="embedding",
        inputs=[{"name": "input_ids", "dtype": "int64", "shape": ["batch", "length"]}],
        outputs=[{"name": "y", "dtype": "int64", "shape": ["batch"]}],
        preprocessing={"kind": "text", "vocab_size": 9, "max_length": 5},
    )
    session = open_bundle(folder)
    assert session.run({"input_ids": np.ones((2, 5), np.int64)})["y"].tolist() == [5, 5]
    with pytest.raises(InputError, match=r"a sequence has 6 tokens, .* takes 5; cut it"):
        session.run({"input_ids": np.ones((2, 6), np.int64)})


def test_an_output_that_is_not_finite_is_an_error(bundle):
    bad = pixels()
    bad[1, 0, 0, 0] = np.nan
    with pytest.raises(GateFailed, match=r"NaN or infinity in output 'logits'"):
        open_bundle(bundle).run({"pixel_values": bad})


def test_state_starts_as_zeros_and_any_chunking_gives_the_same(recurrent):
    session = open_bundle(recurrent)
    x = np.random.default_rng(0).standard_normal((3, 6, 2)).astype(np.float32)
    whole = session.run({"x": x})
    np.testing.assert_allclose(whole["y"], x.sum(axis=1), atol=1e-6)
    past = {}
    for start, end in ((0, 1), (1, 4), (4, 6)):
        out = session.run({"x": x[:, start:end], **past})
        past = {"past_total": out["present_total"]}
    np.testing.assert_allclose(out["y"], whole["y"], atol=1e-6)


def test_a_state_of_another_batch_is_refused(recurrent):
    session = open_bundle(recurrent)
    with pytest.raises(InputError, match="batch = 2, another input has batch = 3"):
        session.run({"x": np.zeros((3, 1, 2), np.float32), "past_total": np.zeros((2, 2), np.float32)})
    with pytest.raises(InputError, match="'x' is missing"):
        session.run({"past_total": np.zeros((2, 2), np.float32)})


@pytest.mark.parametrize("name", ["cpu", "CPU", "CPUExecutionProvider"])
def test_the_provider_asked_for_is_the_one_that_runs(bundle, name):
    assert open_bundle(bundle, provider=name, strict=True).provider == "CPUExecutionProvider"


def test_an_unknown_provider_is_refused_with_the_nearest(bundle):
    with pytest.raises(InputError, match=r"unknown provider 'cuad'.*nearest: 'cuda'"):
        open_bundle(bundle, provider="cuad")


@pytest.mark.parametrize("name", ["dml", "tensorrt"])
def test_a_provider_that_cannot_run_falls_back_with_a_note_and_is_refused_when_strict(bundle, name):
    session = open_bundle(bundle, provider=name)
    assert session.provider == "CPUExecutionProvider"
    assert len(session.notes) == 1 and session.notes[0].startswith("model.onnx does not run on ")
    with pytest.raises(EnvironmentLacks):
        open_bundle(bundle, provider=name, strict=True)


def test_a_jetson_bundle_runs_its_cpu_form_where_there_is_no_tensorrt_and_says_so(maker):
    from support.runtime_toys import onnx_classifier

    models = [
        {"path": "model.onnx", "runtime": "tensorrt", "precision": "fp16", "note": ""},
        {"path": "model.cpu.onnx", "runtime": "onnxruntime", "precision": "fp32", "note": "fallback"},
    ]
    files = {"model.cpu.onnx": onnx_bytes(onnx_classifier()), "model.onnx": b"never loaded here"}
    target = {"name": "jetson-orin-nano", "compute_capability": "8.7", "threads": 1}
    session = open_bundle(maker.write(models=models, files=files, target=target))
    assert session.model.path == "model.cpu.onnx"
    assert "model.onnx does not run on TensorRT: " in session.notes[0]
    np.testing.assert_allclose(session.run({"pixel_values": pixels()})["logits"], oracle(pixels()), atol=1e-4)
    with pytest.raises(EnvironmentLacks):
        open_bundle(session.bundle.source, strict=True)


def test_a_model_that_onnxruntime_cannot_load_is_the_environments_lack(maker):
    bundle = maker.write(files={"model.onnx": b"not a model"})
    with pytest.raises(EnvironmentLacks, match=r"cannot load .*model.onnx"):
        open_bundle(bundle)


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": [{"name": "pixels", "dtype": "float32", "shape": ["batch", 3, 8, 8]}]},
        {"inputs": [{"name": "pixel_values", "dtype": "float16", "shape": ["batch", 3, 8, 8]}]},
        {"outputs": [{"name": "logit", "dtype": "float32", "shape": ["batch", 5]}]},
    ],
)
def test_a_manifest_that_contradicts_the_model_is_refused_on_opening(maker, change):
    with pytest.raises(InputError, match="make the bundle again"):
        open_bundle(maker.write(**change))


def test_a_fixed_batch_is_the_largest_batch(maker):
    from support.runtime_toys import onnx_classifier

    shape = [{"name": "pixel_values", "dtype": "float32", "shape": [1, 3, 8, 8]}]
    session = open_bundle(maker.write(files={"model.onnx": onnx_bytes(onnx_classifier(batch=1))}, inputs=shape))
    assert session.max_batch == 1
    with pytest.raises(InputError, match="shape"):
        session.run({"pixel_values": pixels(2)})


def test_threads_are_the_targets_capped_by_the_machine_unless_given(maker):
    from targets.machine import usable_cpus

    bundle = maker.write(target={"name": "cpu-x86", "threads": 1000})
    assert open_bundle(bundle).threads == usable_cpus()
    assert open_bundle(bundle, threads=1).threads == 1
