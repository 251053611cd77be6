"""The session option for processors whose int8 sums saturate, and what is said of files that do not load."""

from __future__ import annotations

import platform
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
from onnx import helper

from runtime import backends
from runtime.ort import load, saturates
from targets.errors import EnvironmentLacks


def test_exact_int8_sums_are_asked_for_on_x86_without_vnni_only(tmp_path: Path) -> None:
    old, new = tmp_path / "haswell", tmp_path / "sapphire"
    old.write_text("flags : fpu sse4_2 avx2\n")
    new.write_text("flags : fpu avx2 avx512_vnni amx_int8\n")
    assert saturates(old) == (platform.machine() == "x86_64")
    assert not saturates(new)
    assert not saturates(tmp_path / "no-such-file")


def test_a_file_that_does_not_load_is_told_without_onnxruntimes_own_source_lines(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    out = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [out])
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 99)], ir_version=10), path)
    with pytest.raises(EnvironmentLacks, match=r"cannot load .*m\.onnx: .*Opset 99 is under development") as told:
        load(path)
    assert "onnxruntime_src" not in str(told.value) and "ONNXRuntimeError" not in str(told.value)


def test_what_a_provider_lacks_is_named_with_what_brings_it(tmp_path: Path) -> None:
    capi = tmp_path / "capi"
    capi.mkdir()
    build = SimpleNamespace(__file__=str(tmp_path / "__init__.py"))  # of ONNX Runtime, whose library is not one
    (capi / "libonnxruntime_providers_cuda.so").write_bytes(b"no library")
    told = backends.get("cuda").lacking(build)
    assert told and "libonnxruntime_providers_cuda.so" in told and "pip install 'onnxruntime-gpu[cuda,cudnn]'" in told
    assert backends.get("cpu").lacking(build) is None
