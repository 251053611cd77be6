"""Engines are really built where TensorRT is installed, and never used unless they match and were checked."""

import gc
import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.runtime_toys import KERNEL, WEIGHT, onnx_accumulator, onnx_classifier, oracle

from runtime import backends
from runtime.build import shortage, workspace
from runtime.bundles.bundle import open_files
from runtime.bundles.manifest import ModelFile
from runtime.engines import engine_file, trt
from runtime.engines.choosing import pick, told, try_each
from runtime.engines.engine import EngineBuild, LayerTypes, build_engine
from runtime.engines.engine_session import layer_formats
from runtime.engines.progress import BuildProgress
from runtime.measuring.fastest import ENGINES, engine_first, remember_engine
from runtime.session import open_bundle
from targets.errors import EnvironmentLacks, GateFailed, InputError

GB = 1 << 30
MB = 1 << 20
SPANS = {"batch": (1, 1, 8)}


def installed():
    try:
        return trt.load()
    except EnvironmentLacks:
        return None


TENSORRT = installed()
needs_tensorrt = pytest.mark.skipif(TENSORRT is None, reason="TensorRT is not installed")
needs_cross_build = pytest.mark.skipif(
    TENSORRT is None or TENSORRT.needs_device_to_build,
    reason="TensorRT for RTX, which builds without a GPU, is not installed",
)


def onnx_int8():
    """The gemm of a classifier with symmetric int8 Q/DQ on input and weight."""
    weight = np.random.default_rng(0).integers(-127, 128, (8, 5), dtype=np.int8)
    initial = {"w": weight, "s": np.float32(0.02), "z": np.int8(0)}
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
            helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
            helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"]),
            helper.make_node("MatMul", ["xd", "wd"], ["y"]),
        ],
        "int8",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in initial.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture
def rtx_bundle(maker):
    """A bundle for an RTX card: model.onnx in fp16 for TensorRT and a fallback for the CPU."""
    models = [
        {"path": "model.onnx", "runtime": "tensorrt", "precision": "fp16", "note": ""},
        {"path": "model.cpu.onnx", "runtime": "onnxruntime", "precision": "fp32", "note": ""},
    ]
    files = {
        "model.onnx": onnx_classifier("float16").SerializeToString(),
        "model.cpu.onnx": onnx_classifier().SerializeToString(),
    }
    target = {"name": "rtx-ampere", "compute_capability": "8.6", "threads": 1, "profile": {"batch": [1, 1, 8]}}
    return maker.write(models=models, files=files, target=target)


def build(path, model, precision, spans=SPANS, capabilities=("8.6",), **options):
    onnx.save(model, path)
    return build_engine(
        TENSORRT, path, spans, precision=precision, capabilities=capabilities, workspace_bytes=256 * MB, **options
    )


@pytest.mark.skipif(TENSORRT is not None, reason="TensorRT is installed")
def test_without_tensorrt_one_line_says_what_to_install(run_module, rtx_bundle):
    done = run_module("runtime.build", rtx_bundle)
    assert done.returncode == 3 and done.stdout == ""
    assert done.stderr == (
        "error: TensorRT is not installed; it comes with JetPack on a Jetson; elsewhere pip install tensorrt"
        " (RTX cards: pip install tensorrt-rtx)\n"
    )


@needs_cross_build
@pytest.mark.parametrize(
    ("model", "precision", "types", "quantized", "weights"),
    [
        (onnx_classifier(), "fp32", {"float32": 2}, 0, 4 * (KERNEL.size + WEIGHT.size)),
        (onnx_classifier("float16"), "fp16", {"float16": 2}, 0, 2 * (KERNEL.size + WEIGHT.size)),
        (onnx_int8(), "int8", {"float32": 1}, 1, 40),
    ],
    ids=["fp32", "fp16", "int8"],
)
def test_an_engine_is_built_in_the_precision_of_the_file(tmp_path, model, precision, types, quantized, weights):
    told = []
    built = build(tmp_path / "m.onnx", model, precision, tell=lambda fraction, phase: told.append(fraction))
    assert len(built.data) > 10_000
    assert built.layers.results == types and built.layers.quantized == quantized
    assert weights <= built.weights_bytes < weights + 4096
    name = model.graph.input[0].name
    assert [shape[0] for shape in built.profile[name]] == [1, 1, 8]
    assert told == sorted(told) and told[-1] == 1.0 and len(told) > 5


@needs_cross_build
def test_nothing_of_tensorrt_is_left_to_the_garbage_collector(tmp_path):
    """It would free a builder from within a callback of the next one, under a lock that both want."""
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        assert build(tmp_path / "m.onnx", onnx_classifier(), "fp32").data
        gc.collect()
        held = {type(held) for one in gc.garbage for held in gc.get_referents(one)}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    api = TENSORRT.module
    assert not held & {api.Builder, api.INetworkDefinition, api.IBuilderConfig, api.OnnxParser, api.ILayer, api.ITensor}


@needs_cross_build
def test_no_collection_runs_while_tensorrt_calls_back(tmp_path):
    seen = []
    assert gc.isenabled()
    build(tmp_path / "m.onnx", onnx_classifier(), "fp32", tell=lambda fraction, phase: seen.append(gc.isenabled()))
    assert seen and not any(seen) and gc.isenabled()


@needs_tensorrt
@pytest.mark.parametrize(
    ("model", "precision", "spans", "message"),
    [
        (onnx_classifier(), "fp16", SPANS, "asked for fp16, but every layer of the file computes in fp32"),
        (onnx_classifier("float16"), "int8", SPANS, "asked for int8, but the file has no layer with quantized weights"),
        (onnx_classifier(), "fp32", {"length": (1, 2, 3)}, "dimension 'batch' of input 'pixel_values' has no range"),
    ],
)
def test_a_file_without_what_is_asked_is_refused(tmp_path, model, precision, spans, message):
    with pytest.raises(InputError, match=message):
        build(tmp_path / "m.onnx", model, precision, spans)


@needs_cross_build
def test_one_engine_for_several_capabilities_is_built_with_equal_bytes_each_time(tmp_path):
    first, second = (
        build(tmp_path / "m.onnx", onnx_classifier(), "fp32", capabilities=("8.6", "8.9")) for _ in range(2)
    )
    assert first.data == second.data


def test_an_engine_whose_weights_are_wider_than_the_file_is_refused(tmp_path):
    """As a builder makes it that drops Q/DQ and computes in float32 from then on."""
    path = tmp_path / "m.onnx"
    path.write_bytes(bytes(8 * MB))
    layers = LayerTypes({"float32": 1}, 1, 3)
    EngineBuild(b"", b"", {}, layers, 9 * MB).require_weights(path, "int8")
    with pytest.raises(GateFailed, match=r"holds 33\.6 MB of weights, the file in int8 only 8\.4 MB"):
        EngineBuild(b"", b"", {}, layers, 32 * MB).require_weights(path, "int8")
    looped = LayerTypes({"float32": 1}, 1, 3, copied_bytes=32 * MB)
    EngineBuild(b"", b"", {}, looped, 32 * MB).require_weights(path, "int8")
    with pytest.raises(GateFailed, match="did not keep the precision"):
        EngineBuild(b"", b"", {}, looped, 48 * MB).require_weights(path, "int8")
    with pytest.raises(GateFailed, match="did not keep the precision"):
        EngineBuild(bytes(32 * MB), b"", {}, layers, None).require_weights(path, "int8")


@needs_cross_build
def test_a_capability_that_is_not_offered_and_a_file_that_does_not_parse_are_named(tmp_path):
    with pytest.raises(EnvironmentLacks, match=r"does not build for compute capability 8.7; it offers .*SM86"):
        build(tmp_path / "m.onnx", onnx_classifier(), "fp32", capabilities=("8.6", "8.7"))
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(InputError, match="cannot parse it"):
        build_engine(
            TENSORRT, tmp_path / "broken.onnx", SPANS, precision="fp32", capabilities=["8.6"], workspace_bytes=MB
        )


@needs_cross_build
def test_an_interrupt_during_the_build_cancels_it(tmp_path):
    def interrupt(fraction, phase):
        if fraction > 0.2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "m.onnx", onnx_classifier(), "fp32", tell=interrupt)


@needs_cross_build
def test_the_command_builds_reuses_and_rebuilds(run_module, rtx_bundle):
    done = run_module("runtime.build", rtx_bundle, "--workspace", "128")
    assert done.returncode == 0, done.stderr
    assert "layers that compute: 2 in float16; weights take 0.00 MB" in done.stderr
    assert "at most 128 MB of workspace" in done.stderr
    assert "100 %" in done.stderr
    (engine,) = (rtx_bundle / "engines" / "local").glob("*.engine")
    assert done.stdout.strip() == str(engine)
    assert engine.name == f"model-tensorrt_rtx-{TENSORRT.version}-sm86.engine"
    record = json.loads(engine.with_suffix(".json").read_text())
    assert record["identity"]["version"] == TENSORRT.version and record["bytes"] == engine.stat().st_size
    first = engine.stat().st_mtime_ns
    again = run_module("runtime.build", rtx_bundle)
    assert "a matching engine is there" in again.stderr and engine.stat().st_mtime_ns == first
    assert run_module("runtime.build", rtx_bundle, "--force").returncode == 0
    assert engine.stat().st_mtime_ns != first
    engine.write_bytes(engine.read_bytes()[:-1])
    assert "a matching engine is there" not in run_module("runtime.build", rtx_bundle).stderr
    open_files(rtx_bundle)  # what is written on the device does not break the bundle


@needs_cross_build
def test_a_bundle_that_cannot_be_written_is_refused_before_the_build(run_module, rtx_bundle):
    (rtx_bundle / "engines").mkdir()
    (rtx_bundle / "engines" / "local").write_text("no folder")
    done = run_module("runtime.build", rtx_bundle)
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(r"error: cannot write .*engines/local.*; give a place that can be written\n", done.stderr)


@needs_cross_build
def test_an_engine_that_was_never_checked_is_not_used(run_module, rtx_bundle):
    """There is no driver that can run it here, so the build says so and the session falls back, with a note."""
    done = run_module("runtime.build", rtx_bundle)
    checked = list((rtx_bundle / "engines" / "local").glob("*.golden.json"))
    if "note: not checked: " in done.stderr:
        assert done.returncode == 0 and not checked
        session = open_bundle(rtx_bundle)
        assert session.model.path == "model.cpu.onnx" and "model.onnx does not run on TensorRT" in session.notes[0]
    else:
        assert done.returncode == 0 and len(checked) == 1
        assert open_bundle(rtx_bundle, strict=True).provider == TENSORRT.label


@pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_ep_nv_tensorrt_rtx") is None,
    reason="ONNX Runtime's provider for RTX cards is not installed",
)
def test_the_order_is_engine_then_provider_then_cpu_and_each_note_says_why(rtx_bundle, run_module):
    session = open_bundle(rtx_bundle)
    preferred = [note.split(": ")[0] for note in session.notes]
    wanted = ["TensorRT", "NvTensorRTRTXExecutionProvider", "CPUExecutionProvider"]
    assert [f"model.onnx does not run on {name}" for name in wanted][: len(preferred)] == preferred
    assert session.provider == wanted[len(preferred)]
    strict = run_module("runtime.selftest", rtx_bundle, "--provider", "rtx", "--strict-provider")
    if session.provider == "CPUExecutionProvider":
        assert strict.returncode == 3 and strict.stderr.count("\n") == 1 and "ONNX Runtime" in strict.stderr


def test_onnxruntimes_tensorrt_is_told_the_precision_and_where_to_keep_engines(monkeypatch):
    monkeypatch.setenv("EDGEPRESS_CACHE", "/cache")
    options = {precision: backends.get("ort-tensorrt").options(precision) for precision in ("fp32", "fp16", "int8")}
    flags = {name: sorted({"trt_fp16_enable", "trt_int8_enable"} & set(table)) for name, table in options.items()}
    assert flags == {"fp32": [], "fp16": ["trt_fp16_enable"], "int8": ["trt_fp16_enable", "trt_int8_enable"]}
    assert options["fp32"]["trt_engine_cache_path"] == "/cache/onnxruntime-tensorrt"
    assert backends.get("cuda").options("fp16") == {}


THREE = tuple(
    ModelFile(path, "tensorrt", precision, "")
    for path, precision in [("model.onnx", "int8"), ("model.fp16.onnx", "fp16"), ("model.int8-attention.onnx", "int8")]
)


def tried(*found):
    """What became of the three files: ms of a call, or the reason why it is left out."""
    results = dict(zip((model.path for model in THREE), found, strict=True))

    def provide(model):
        if isinstance(results[model.path], str):
            raise GateFailed(results[model.path])
        return Path(f"{model.path}.engine")

    return try_each(THREE, provide, lambda model, engine: results[model.path])


@pytest.mark.parametrize(
    ("found", "kept", "lines"),
    [
        (
            (1.5, 2.5, 1.25),
            2,
            [
                "kept: model.int8-attention.onnx (int8), 1.25 ms a call: the fastest of 3 that pass",
                "not kept: model.onnx (int8), 1.5 ms a call",
                "not kept: model.fp16.onnx (fp16), 2.5 ms a call",
            ],
        ),
        (
            (1.5, 2.5, "logits differs from the golden output"),
            0,
            [
                "kept: model.onnx (int8), 1.5 ms a call: the fastest of 2 that pass",
                "not kept: model.fp16.onnx (fp16), 2.5 ms a call",
                "left out: model.int8-attention.onnx (int8): logits differs from the golden output",
            ],
        ),
        (
            ("no memory", 2.5, "no memory"),
            1,
            [
                "kept: model.fp16.onnx (fp16), 2.5 ms a call: the only one that passes",
                "left out: model.onnx (int8): no memory",
                "left out: model.int8-attention.onnx (int8): no memory",
            ],
        ),
        ((2.0, 2.0, 2.0), 0, ["kept: model.onnx (int8), 2 ms a call: the fastest of 3 that pass"]),
    ],
    ids=["the fastest", "a faster one is wrong", "one alone passes", "all are as fast"],
)
def test_the_fastest_engine_that_passes_is_kept_and_the_others_are_named(found, kept, lines):
    every = tried(*found)
    best = pick(every)
    assert best.model == THREE[kept] and best.engine == Path(f"{THREE[kept].path}.engine")
    assert told(every, best)[: len(lines)] == lines and len(told(every, best)) == 3


def test_where_no_engine_passes_the_first_reason_is_the_error():
    with pytest.raises(GateFailed, match="first"):
        pick(tried("first", "second", "third"))


@pytest.fixture
def bundle_of_three(maker):
    """A bundle with three files for TensorRT, and one for the CPU."""
    whole = onnx_classifier().SerializeToString()
    files = {model.path: whole + b"\x32\x00" * at for at, model in enumerate(THREE)}  # an empty comment more each
    models = [{"path": model.path, "runtime": "tensorrt", "precision": model.precision, "note": ""} for model in THREE]
    models.append({"path": "model.cpu.onnx", "runtime": "onnxruntime", "precision": "fp32", "note": ""})
    files["model.cpu.onnx"] = whole
    target = {"name": "jetson", "compute_capability": "8.7", "threads": 1, "profile": {"batch": [1, 1, 8]}}
    return maker.write(models=models, files=files, target=target)


def test_a_session_tries_the_engine_that_was_kept_before_the_others(bundle_of_three):
    opened = open_files(bundle_of_three)
    models = opened.manifest.models[:3]
    assert engine_first(opened, models) == list(models)
    remember_engine(opened, models[2], {model.path: 1.0 for model in models})
    assert engine_first(opened, models) == [models[2], *models[:2]]
    notes = [note.split(" does not run on ")[0] for note in open_bundle(bundle_of_three).notes if "TensorRT:" in note]
    assert notes == ["model.int8-attention.onnx", "model.onnx", "model.fp16.onnx"]
    (bundle_of_three / ENGINES).write_text('{"machine": "another", "fastest": {}}')
    assert engine_first(opened, models) == list(models)


@needs_cross_build
def test_a_recurrent_model_is_built_with_a_fixed_batch(run_module, maker):
    state = [{"past": "past_total", "present": "present_total", "dtype": "float32", "shape": ["batch", 2]}]
    bundle = maker.write(
        files={"model.onnx": onnx_accumulator().SerializeToString()},
        models=[{"path": "model.onnx", "runtime": "tensorrt", "precision": "fp32"}],
        target={"name": "rtx-ada", "compute_capability": "8.9", "profile": {"batch": [1, 2, 8], "chunk": [1, 1, 64]}},
        inputs=[{"name": "x", "dtype": "float32", "shape": ["batch", "chunk", 2]}],
        outputs=[{"name": "y", "dtype": "float32", "shape": ["batch", 2]}],
        state=state,
    )
    done = run_module("runtime.build", bundle)
    assert done.returncode == 0, done.stderr
    record = json.loads(next((bundle / "engines" / "local").glob("*.json")).read_text())
    assert record["identity"]["spans"]["batch"] == [2, 2, 2] and record["identity"]["spans"]["chunk"] == [1, 1, 64]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "was made for cpu-x86 and has no model for TensorRT"),
        ({"zip": True}, "is a zip; unpack it"),
    ],
)
def test_a_bundle_that_cannot_get_an_engine_is_refused(run_module, maker, tmp_path, change, message):
    import shutil

    bundle = maker.write()
    if change:
        bundle = shutil.make_archive(str(tmp_path / "b"), "zip", bundle)
    done = run_module("runtime.build", bundle)
    assert done.returncode == 2 and message in done.stderr


def test_the_workspace_is_bounded_by_the_memory_that_is_free():
    assert workspace(20 * MB, None, None) == 2 * GB
    assert workspace(20 * MB, 100 * GB, None) == 2 * GB
    assert workspace(100 * MB, 3 * GB, None) == (3 * GB - 912 * MB) // 2
    assert workspace(100 * MB, 3 * GB, 300 * MB) == 300 * MB
    assert workspace(100 * MB, 1 * GB, 300 * MB) == 112 * MB
    assert workspace(100 * MB, 900 * MB, None) == workspace(100 * MB, 0, 300 * MB) == 64 * MB


def test_too_little_memory_by_the_estimate_is_a_warning_and_no_refusal():
    assert shortage(100 * MB, 976 * MB) is None and shortage(100 * MB, None) is None
    told = shortage(100 * MB, 900 * MB)
    assert told and told.startswith("warning: by an estimate") and "976 MB" in told and "900 MB are free" in told


def test_a_dry_run_says_what_would_be_built_and_what_is_lacking_and_builds_nothing(run_module, rtx_bundle):
    before = sorted(rtx_bundle.rglob("*"))
    done = run_module("runtime.build", rtx_bundle, "--dry-run")
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert re.fullmatch(r"model.onnx \(fp16, .* MB\): an estimated \d+ MB of memory, \d+ MB are free", first)
    assert all(line.startswith(("lacking: ", "an engine is there: ", "to be built by ")) for line in rest) and rest
    assert sorted(rtx_bundle.rglob("*")) == before


def identity(bundle, **changes):
    tensorrt = trt.TensorRT(None, "tensorrt", "10.3.0")
    files = open_files(bundle)
    return files, replace(engine_file.identify(files, files.manifest.models[0], tensorrt, "8.7"), **changes)


def test_an_engine_is_found_only_by_what_it_was_built_from_and_for(rtx_bundle):
    files, mine = identity(rtx_bundle)
    assert set(mine.onnx) == {"model.onnx"} and mine.precision == "fp16" and mine.spans == {"batch": (1, 1, 8)}
    assert engine_file.find_engine(files.root, mine) is None
    built = EngineBuild(b"engine", b"", {"x": [[1], [1], [8]]}, LayerTypes({"float16": 2}, 0, 0), 12)
    both = replace(mine, compute_capabilities=("8.6", "8.7"))
    shipped = engine_file.store(files.root / engine_file.FOLDER, both, built, 100)
    assert shipped.path.name == "model-tensorrt-10.3.0-sm86-sm87.engine"
    assert engine_file.find_engine(files.root, mine) == shipped
    local = engine_file.store(files.root / engine_file.LOCAL, mine, built, 100)
    assert engine_file.find_engine(files.root, mine) == local, "the one built here comes first"
    for change in (
        {"version": "10.16.2"}, {"compute_capabilities": ("8.9",)}, {"precision": "int8"}, {"flavour": "tensorrt_rtx"},
        {"spans": {"batch": (1, 1, 4)}}, {"onnx": {"model.onnx": "0" * 64}},
    ):  # fmt: skip
        assert engine_file.find_engine(files.root, replace(mine, **change)) is None
    local.path.write_bytes(b"engina")
    assert engine_file.find_engine(files.root, mine) == shipped, "a damaged engine is as good as none"
    local.path.write_bytes(b"engine")
    local.path.with_suffix(".json").write_text("{}")
    shipped.path.unlink()
    assert engine_file.find_engine(files.root, mine) is None


def test_a_golden_note_counts_for_this_engine_on_this_device_alone(rtx_bundle):
    files, mine = identity(rtx_bundle)
    built = EngineBuild(b"engine", b"", {}, LayerTypes({"float16": 2}, 0, 0), 12)
    engine = engine_file.store(files.root / engine_file.FOLDER, mine, built, 100)
    assert not engine.passed("Orin")
    engine.note_passed("Orin")
    assert engine.passed("Orin") and not engine.passed("Thor")
    assert engine_file.find_engine(files.root, mine) == engine, "the note is not an engine's record"
    again = engine_file.store(files.root / engine_file.FOLDER, mine, replace(built, data=b"other"), 100)
    assert not again.passed("Orin")
    again.path.with_suffix(".golden.json").write_text("{")
    assert not again.passed("Orin")


def test_the_inspectors_layers_are_counted_by_number_format():
    layers = [
        {"Name": "a", "Outputs": [{"Name": "x", "Format/Datatype": "Row major linear FP16 format"}]},
        {"Name": "b", "Outputs": [{"Name": "y", "Datatype": "Int8"}, {"Name": "z", "Datatype": "Int8"}]},
        "a layer of an engine without detailed profiling",
    ]
    assert layer_formats(json.dumps({"Layers": layers})) == {"FP16": 1, "Int8": 1, "unknown": 1}


def test_weights_stored_apart_belong_to_an_engines_identity(maker):
    bundle = maker.write(
        files={"model.onnx.data": b"weights"},
        models=[{"path": "model.onnx", "runtime": "tensorrt", "precision": "fp32"}],
    )
    _, before = identity(bundle)
    assert set(before.onnx) == {"model.onnx", "model.onnx.data"} and before.model == "model.onnx"
    (bundle / "model.onnx.data").write_bytes(b"others")
    maker.seal(bundle)
    assert identity(bundle)[1] != before


def test_progress_grows_through_nested_phases_and_ends_at_one():
    told = []
    progress = BuildProgress(lambda fraction, phase: told.append((round(fraction, 3), phase)))
    progress.start("build", None, 2)
    progress.start("graph", "build", 4)
    for step in range(4):
        assert progress.step("graph", step)
    progress.finish("graph")
    progress.step("build", 0)
    progress.start("tactics", "build", 2)
    progress.step("tactics", 0)
    progress.finish("tactics")
    progress.finish("unheard of")
    progress.step("build", 1)
    progress.finish("build")
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert (0.125, "graph") in told and (0.75, "tactics") in told
    progress.cancelled = True
    assert not progress.step("build", 0)


def test_the_toy_network_in_half_precision_is_the_toy_network(tmp_path):
    """The fp16 file that the builds above take computes the classifier, to half precision."""
    from runtime import ort

    onnx.save(onnx_classifier("float16"), tmp_path / "m.onnx")
    pixels = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
    out = ort.load(tmp_path / "m.onnx", threads=1).run({"pixel_values": pixels})["logits"]
    np.testing.assert_allclose(out, oracle(pixels), atol=3e-2)
