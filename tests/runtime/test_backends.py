"""Every file of runtime/backends is a backend: named as its file, honest about what it lacks, equal in its answers."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.runtime_toys import REPO, onnx_accumulator, onnx_classifier, oracle

from runtime import backends
from runtime.backends import Opening
from runtime.bundles.bundle import open_files
from runtime.measuring.fastest import BACKENDS, Choice, remember_choice
from runtime.session import open_bundle, open_session
from targets.errors import EnvironmentLacks, InputError

FOLDER = REPO / "runtime" / "backends"
NAMES = sorted(path.stem.replace("_", "-") for path in FOLDER.glob("*.py") if path.stem != "__init__")
PLAIN = {"path": "model.onnx", "runtime": "onnxruntime", "precision": "fp32", "form": "plain"}
FUSED = {"path": "model.cpu.onnx", "runtime": "onnxruntime", "precision": "fp32"}
TARGET = {"name": "cpu-x86", "precision": "fp32", "threads": 1, "backends": ["cpu", "openvino"]}
needs_openvino = pytest.mark.skipif(
    backends.get("openvino").lacks() is not None, reason="the package openvino is not installed"
)


def pixels(batch, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def both(maker):
    """A bundle with a plain and a fused file, for a target that prefers ONNX Runtime to OpenVINO."""
    files = {"model.cpu.onnx": onnx_classifier().SerializeToString()}
    return maker.write(models=[FUSED, PLAIN], target=TARGET, files=files)


def test_the_folder_is_the_list():
    assert list(backends.names()) == NAMES and {"cpu", "cuda", "openvino", "ort-tensorrt", "rtx", "tensorrt"} <= set(
        NAMES
    )
    assert set(backends.ON_GPU) | {backends.CPU, backends.ENGINE} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_says_what_it_is_and_what_it_lacks_in_one_line(name):
    backend = backends.get(name)
    assert backend.name == name and backend.form in ("plain", "fused", "engine") and backend.on
    lack = backend.lacks()
    assert lack is None or (0 < len(lack) < 300 and "\n" not in lack)


@pytest.mark.parametrize("name", NAMES)
def test_each_gives_the_models_answers_or_says_why_it_cannot(name, tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(onnx_classifier(), path)
    try:
        model = backends.get(name).open(Opening(path, threads=1))
    except (EnvironmentLacks, InputError) as problem:
        assert name != "cpu" and "\n" not in str(problem)
        return
    for batch in (1, 3):
        np.testing.assert_allclose(
            model.run({"pixel_values": pixels(batch)})["logits"], oracle(pixels(batch)), atol=1e-4
        )
    assert [(one.name, one.dtype, len(one.shape)) for one in model.inputs] == [("pixel_values", "float32", 4)]
    assert [(one.name, one.dtype) for one in model.outputs] == [("logits", "float32")] and model.provider


@pytest.mark.parametrize("name", NAMES)
def test_each_refuses_a_file_that_holds_no_model_in_one_line(name, tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises((EnvironmentLacks, InputError)) as problem:
        backends.get(name).open(Opening(tmp_path / "m.onnx", threads=1))
    assert "\n" not in str(problem.value) and len(str(problem.value)) < 400


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(InputError, match=r"unknown provider 'opnvino'.*nearest: 'openvino'"):
        backends.asked("opnvino")
    with pytest.raises(InputError, match=r"unknown backend '../cpu'"):
        backends.get("../cpu")


def test_a_full_name_and_any_other_provider_of_onnxruntime_are_found():
    assert backends.asked("CUDAExecutionProvider") is backends.get("cuda")
    assert backends.asked("NvTensorRTRTXExecutionProvider") is backends.get("rtx")
    assert backends.asked("dml").on == "DmlExecutionProvider"


@needs_openvino
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.integers(1, 4), chunk=st.integers(1, 6), seed=st.integers(0, 99))
def test_openvino_keeps_the_contract_of_states_over_any_shape(tmp_path, batch, chunk, seed):
    path = tmp_path / "m.onnx"
    if not path.exists():
        onnx.save(onnx_accumulator(), path)
    x = np.random.default_rng(seed).standard_normal((batch, chunk, 2)).astype(np.float32)
    past = np.ones((batch, 2), np.float32)
    model = backends.get("openvino").open(Opening(path, threads=1))
    first = model.run({"x": x, "past_total": past})
    second = model.run({"x": x, "past_total": first["present_total"]})
    np.testing.assert_allclose(first["y"], past + x.sum(axis=1), atol=1e-5)  # not overwritten by the second call
    np.testing.assert_allclose(second["y"], past + 2 * x.sum(axis=1), atol=1e-5)


@needs_openvino
def test_a_session_opens_the_plain_file_by_openvino_and_the_fused_one_by_onnxruntime(both):
    assert open_bundle(both).model.path == "model.cpu.onnx"
    session = open_bundle(both, "openvino", strict=True)
    assert session.model.path == "model.onnx" and re.match(r"OpenVINO \d+", session.provider)
    np.testing.assert_allclose(session.run({"pixel_values": pixels(2)})["logits"], oracle(pixels(2)), atol=1e-4)


@needs_openvino
def test_a_bench_compares_backends_remembers_the_fastest_and_run_takes_it(both, run_module):
    done = run_module("runtime.bench", both, "--seconds", "0.2", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert set(report["ms_by_backend"]) == {"cpu", "openvino"}
    best = min(report["ms_by_backend"], key=report["ms_by_backend"].get)
    assert f"fastest with --provider {best} (" in done.stderr and "runtime.run takes it here" in done.stderr
    assert open_bundle(both).model.path == {"cpu": "model.cpu.onnx", "openvino": "model.onnx"}[best]


def choose(bundle, name, file, **ms):
    opened = open_files(bundle)
    remember_choice(opened, 1, Choice(name, opened.manifest.files[file].sha256, 1, ms))


@needs_openvino
def test_what_was_found_fastest_is_taken_and_told_for_that_batch_alone(both):
    choose(both, "openvino", "model.onnx", cpu=2.0, openvino=1.0)
    session = open_bundle(both)
    assert session.provider.startswith("OpenVINO")
    assert session.notes == ("openvino is the fastest here by runtime.bench: openvino 1 ms, cpu 2 ms",)
    assert open_bundle(both, "cpu").provider == "CPUExecutionProvider"
    assert open_session(open_files(both), batch=8).provider == "CPUExecutionProvider"


def test_a_remembered_backend_that_is_gone_leaves_a_note_and_the_order_holds(both, monkeypatch):
    choose(both, "openvino", "model.onnx", cpu=2.0, openvino=1.0)
    monkeypatch.setattr(type(backends.get("openvino")), "lacks", lambda self: "OpenVINO is not installed")
    session = open_bundle(both)
    assert session.provider == "CPUExecutionProvider" and "OpenVINO is not installed" in session.notes[-1]
    with pytest.raises(EnvironmentLacks, match="not installed"):
        open_bundle(both, strict=True)


def test_a_preferred_backend_that_was_not_compared_makes_the_memory_stale(both):
    choose(both, "openvino", "model.onnx", openvino=1.0)
    assert open_bundle(both).provider == "CPUExecutionProvider"


@pytest.mark.parametrize("text", ["[" * 100_000, '{"machine": ' * 50_000, "null", "no json", " " * 2_000_000])
def test_a_damaged_memory_counts_as_nothing(both, text):
    for name in (BACKENDS, "local/threads.json"):
        (both / name).parent.mkdir(exist_ok=True)
        (both / name).write_text(text)
    assert open_bundle(both).provider == "CPUExecutionProvider"


@needs_openvino
def test_a_backend_with_other_outputs_than_the_golden_ones_is_never_chosen(both, maker, run_module):
    wrong = onnx_classifier()
    wrong.graph.initializer[0].raw_data = np.zeros(4 * 3 * 9, np.float32).tobytes()
    (both / "model.onnx").write_bytes(wrong.SerializeToString())
    maker.seal(both)
    for file, good in (("model.cpu.onnx", True), ("model.onnx", False)):
        choose(both, "openvino" if file == "model.onnx" else "cpu", file, cpu=1.0, openvino=1.0)
        assert (run_module("runtime.selftest", both).returncode == 0) == good
    (both / BACKENDS).unlink()
    done = run_module("runtime.bench", both, "--seconds", "0.2", "--json")
    assert json.loads(done.stdout)["provider"] == "CPUExecutionProvider"
    shutil.rmtree(both / "local")


def test_a_bundle_that_lists_a_backend_of_a_later_edgepress_runs_by_the_others(maker):
    for place, listed in enumerate((["quantum", "cpu"], ["quantum"])):
        bundle = maker.write(f"bundle-{place}", target={**TARGET, "backends": listed})
        session = open_bundle(bundle)
        assert session.provider == "CPUExecutionProvider"
        assert session.notes == ("the bundle also lists the backend quantum, which this edgepress has not; upgrade it",)


def test_a_file_for_an_unknown_runtime_is_refused_with_the_nearest(maker):
    bundle = maker.write(models=[{**PLAIN, "runtime": "openvin"}])
    with pytest.raises(InputError, match=r"models\[0\].runtime.*'openvin'.*nearest: 'openvino'"):
        open_files(bundle)


def test_adding_a_backend_is_adding_one_file(tmp_path, bundle):
    """A copy of the device side with one more file offers one more backend."""
    import subprocess
    import sys

    for package in ("runtime", "targets"):
        shutil.copytree(REPO / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    text = Path(FOLDER / "cpu.py").read_text().replace('"cpu"', '"second-cpu"')
    (tmp_path / "runtime" / "backends" / "second_cpu.py").write_text(text)
    command = [sys.executable, "-m", "runtime.selftest", str(bundle), "--provider", "second-cpu", "--strict-provider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
