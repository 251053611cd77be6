"""Which files ship: one per form that the target's backends want, and never a bundle without one for the CPU."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import targets
from compress.recipe import parse
from compress.stages.job import Job
from compress.stages.precision import choose_files
from runtime import backends
from targets.errors import InputError

forms = st.lists(st.sampled_from(["plain", "fused", "engine"]), min_size=1, unique=True)
modes = st.sampled_from(["fp32", "fp16", "int8", "int4"])


def paths(target, mode, engines=None):
    wanted = [backends.get(name).form for name in targets.load(target).backends]
    return [(file.path, file.runtime, file.precision) for file in choose_files(wanted, mode, engines or (mode,))]


def test_the_targets_have_the_files_that_they_always_had():
    assert paths("cpu", "int8") == [("model.onnx", "onnxruntime", "int8")]
    assert paths("jetson", "fp16") == [("model.onnx", "tensorrt", "fp16"), ("model.cpu.onnx", "onnxruntime", "fp32")]
    assert paths("rtx", "int8", ("int8", "fp16")) == [
        *(("model.onnx", "tensorrt", "int8"), ("model.fp16.onnx", "tensorrt", "fp16")),
        ("model.cpu.onnx", "onnxruntime", "int8"),
    ]


@pytest.mark.parametrize(
    ("attention", "files"),
    [
        ("float", [("model.onnx", False), ("model.fp16.onnx", False)]),
        ("int8", [("model.onnx", True), ("model.fp16.onnx", False)]),
        ("both", [("model.onnx", False), ("model.fp16.onnx", False), ("model.int8-attention.onnx", True)]),
    ],
)
def test_attention_in_int8_is_in_the_int8_file_or_in_one_of_its_own(attention, files):
    made = choose_files(["engine", "fused"], "int8", ("int8", "fp16"), attention)
    assert [(file.path, file.attention) for file in made if file.form == "plain"] == files
    assert not made[-1].attention and made[-1].form == "fused"
    assert choose_files(["fused"], "int8", ("int8",), "both") == choose_files(["fused"], "int8", ("int8",))


def job(target, **precision):
    table = {"model": {"source": "zoo:vit-mnist"}, "precision": precision}
    return Job(parse(table, "mine"), "mine", targets.load(target), 0, Path("digests.json"))


def test_files_for_tensorrt_in_more_number_formats_are_added_once():
    assert job("jetson", mode="int8", beside=("fp16", "int8")).engine_precisions == ("int8", "fp16")
    assert job("rtx", mode="fp16", beside=("fp32",)).engine_precisions == ("fp16", "int8", "fp32")
    with pytest.raises(InputError, match="beside has int4, which target jetson-orin-nano has not; it takes fp32"):
        _ = job("jetson", mode="int8", beside=("int4",)).engine_precisions


def test_openvino_has_a_plain_file_beside_the_fused_one():
    assert paths("openvino", "int8") == [
        *(("model.onnx", "onnxruntime", "int8"), ("model.cpu.onnx", "onnxruntime", "int8")),
    ]


@given(forms, modes)
def test_each_form_has_its_file_and_the_main_one_is_plain_where_there_is_one(wanted, mode):
    files = choose_files(wanted, mode, (mode, "fp32"))
    names = [file.path for file in files]
    assert len(set(names)) == len(names) and names.count("model.onnx") == 1
    assert [file.form for file in files].count("fused") == 1
    plain = [file for file in files if file.form == "plain"]
    assert bool(plain) == bool({"plain", "engine"} & set(wanted))
    assert all((file.runtime == "tensorrt") == ("engine" in wanted) for file in plain)
    assert next(file for file in files if file.path == "model.onnx") == (plain[0] if plain else files[0])
    assert "engine" in wanted or all(file.precision != "int4" for file in plain)


def test_a_backend_that_there_is_not_is_refused_by_name():
    with pytest.raises(InputError, match=r"unknown backend 'openvin'.*nearest: 'openvino'"):
        backends.get("openvin")
