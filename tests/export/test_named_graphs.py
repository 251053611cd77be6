"""A bundle of a model with two graphs, an encoder and a decoder with state: written, checked, opened and timed; and a
bundle of one graph says nothing of graphs."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.bundle import BundleContent, Form, write_bundle, write_zipped
from runtime.bundles.bundle import open_files
from runtime.bundles.manifest import BundleTarget, ModelFile, State, parse_manifest
from runtime.engines.engine_file import identify
from runtime.session import open_bundle, open_graphs
from runtime.stream import Stream
from targets.errors import GateFailed, InputError

STATE = State("past_total", "present_total", "float32", ("batch", 2))
TARGET = BundleTarget(
    "cpu-x86", "fp32", threads=1, profile={"batch": (1, 1, 4), "chunk": (1, 1, 16)}, backends=("cpu",)
)


def value(name, shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def saved(path, nodes, inputs, outputs, constants):
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def encoder(folder):
    """memory = 2 * x."""
    double = [helper.make_node("Add", ["x", "x"], ["memory"])]
    return saved(folder / "e.onnx", double, [value("x", ["batch", 3])], [value("memory", ["batch", 3])], [])


def decoder(folder):
    """y = past + the running sum of tokens; past grows by their sum."""
    nodes = [
        helper.make_node("CumSum", ["tokens", "one"], ["sums"]),
        helper.make_node("Unsqueeze", ["past_total", "axes"], ["before"]),
        helper.make_node("Add", ["sums", "before"], ["y"]),
        helper.make_node("ReduceSum", ["tokens", "axes"], ["sum"], keepdims=0),
        helper.make_node("Add", ["sum", "past_total"], ["present_total"]),
    ]
    constants = [numpy_helper.from_array(np.array(1), "one"), numpy_helper.from_array(np.array([1]), "axes")]
    inputs = [value("tokens", ["batch", "chunk", 2]), value("past_total", ["batch", 2])]
    outputs = [value("y", ["batch", "chunk", 2]), value("present_total", ["batch", 2])]
    return saved(folder / "d.onnx", nodes, inputs, outputs, constants)


def content(folder):
    forms = [
        Form(ModelFile("encoder.onnx", "onnxruntime", "fp32", graph="encoder"), encoder(folder)),
        Form(ModelFile("encoder.cpu.onnx", "onnxruntime", "fp32", graph="encoder"), encoder(folder)),
        Form(ModelFile("decoder.onnx", "onnxruntime", "fp32", graph="decoder"), decoder(folder)),
    ]
    tokens = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    golden = {
        "encoder": {"x": np.ones((2, 3), np.float32)},
        "decoder": {"tokens": tokens, "past_total": np.zeros((2, 2), np.float32)},
    }
    return BundleContent("translation", TARGET, forms, golden, "0.1.0", "pass")


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "bundle", content(tmp_path))


def test_both_graphs_open_by_name_from_the_folder_and_the_zip(bundle, tmp_path):
    for path in (bundle, write_zipped(bundle, tmp_path / "b.zip")):
        sessions = open_graphs(path)
        assert list(sessions) == ["encoder", "decoder"]
        memory = sessions["encoder"].run({"x": np.full((1, 3), 4, np.float32)})["memory"]
        assert memory.tolist() == [[8, 8, 8]]
        with pytest.raises(InputError, match="unknown input 'tokens'; allowed: x"):
            sessions["encoder"].run({"tokens": np.ones((1, 3), np.float32)})
        stream = Stream(sessions["decoder"])
        assert stream.step(np.ones((1, 2), np.float32)).tolist() == [[1, 1]]
        assert stream.step(np.ones((1, 2), np.float32)).tolist() == [[2, 2]]


def test_what_opens_one_model_says_that_there_are_several_and_names_them(bundle):
    with pytest.raises(InputError, match="has the graphs encoder, decoder; name one of them"):
        open_bundle(bundle)
    with pytest.raises(InputError, match="the graphs encoder, decoder, not 'encodr'; name one"):
        open_files(bundle).one("encodr")


def test_the_selftest_holds_every_graph_and_finds_the_one_that_differs(bundle, monkeypatch, capsys):
    from runtime import selftest

    monkeypatch.setattr("sys.argv", ["selftest", str(bundle), "--json"])
    assert selftest.main() == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] and set(report["graphs"]) == {"encoder", "decoder"}
    assert open_files(bundle).graphs["decoder"].manifest.state == (STATE,)
    assert report["graphs"]["decoder"]["streaming"] and "streaming" not in report["graphs"]["encoder"]
    golden = dict(np.load(bundle / "golden.decoder.npz"))
    golden["output_y"] = golden["output_y"] + 9
    np.savez(bundle / "golden.decoder.npz", **golden)
    reseal(bundle)
    with pytest.raises(GateFailed, match="y differs from the golden output"):
        selftest.main()
    report = json.loads(capsys.readouterr().out)
    assert not report["passed"] and report["graphs"]["encoder"]["passed"]


def test_an_engine_of_a_graph_is_of_the_weights_that_it_shares_with_the_others(tmp_path):
    (tmp_path / "weights").write_bytes(b"shared")
    whole = replace(content(tmp_path), files={"model.onnx.data": tmp_path / "weights"})
    files = open_files(write_bundle(tmp_path / "bundle", whole))
    graph, builder = files.graphs["encoder"], SimpleNamespace(flavour="tensorrt", version="10.3")
    identity = identify(graph, graph.manifest.models[0], builder, "8.7")
    assert identity.model == "encoder.onnx" and list(identity.onnx) == ["encoder.onnx", "model.onnx.data"]
    assert identity.onnx == {name: files.manifest.files[name].sha256 for name in identity.onnx}


def test_a_bench_times_the_graph_that_is_named(bundle, monkeypatch, capsys):
    from runtime import bench

    arguments = ["bench", str(bundle), "--seconds", "0.05", "--threads", "1", "--json"]
    monkeypatch.setattr("sys.argv", [*arguments, "--graph", "decoder"])
    assert bench.main() == 0
    report = json.loads(capsys.readouterr().out)
    assert report["model"].endswith("decoder.onnx") and report["state_bytes"] == 8
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(InputError, match="name one of them"):
        bench.main()


def test_graphs_are_told_apart_by_a_schema_that_older_devices_refuse(bundle):
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["schema"] == 2 and not {"inputs", "outputs", "state"} & set(manifest)
    assert [model["graph"] for model in manifest["models"]] == ["encoder", "encoder", "decoder"]


def test_a_model_of_one_graph_is_written_as_it_always_was(tmp_path):
    form = Form(ModelFile("model.onnx", "onnxruntime", "fp32"), encoder(tmp_path))
    one = BundleContent("embedding", TARGET, [form], {"model": {"x": np.ones((2, 3), np.float32)}}, "0.1.0", "pass")
    manifest = json.loads((write_bundle(tmp_path / "one", one) / "manifest.json").read_text())
    assert manifest["schema"] == 1 and "graphs" not in manifest and {"inputs", "outputs", "state"} <= set(manifest)
    assert manifest["models"] == [{"path": "model.onnx", "runtime": "onnxruntime", "precision": "fp32", "note": ""}]
    assert list(open_graphs(tmp_path / "one")) == ["model"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["graphs"].pop("decoder"), "no graph can be named 'decoder'"),
        (lambda m: m.update(inputs=m["graphs"]["encoder"]["inputs"]), "graphs stands beside inputs"),
        (lambda m: m["graphs"].update({"../x": m["graphs"]["encoder"]}), "files lacks '../x.onnx'"),
        (lambda m: m["graphs"]["encoder"].update(inputs=[]), "graphs.encoder.*inputs or outputs is empty"),
        (lambda m: m["graphs"]["decoder"]["state"][0].pop("present"), r"graphs.decoder.state\[0\].present.*missing"),
        (lambda m: m.update(schema=3), "schema 3 is newer"),
    ],
)
def test_a_manifest_whose_graphs_do_not_fit_is_refused(bundle, change, message):
    manifest = json.loads((bundle / "manifest.json").read_text())
    change(manifest)
    with pytest.raises(InputError, match=message):
        parse_manifest(json.dumps(manifest).encode(), "manifest.json")


def test_content_that_does_not_fit_its_graphs_is_refused(tmp_path):
    whole = content(tmp_path)
    wrong = {
        "a bundle needs decoder.onnx": replace(whole, forms=whole.forms[:2]),
        "have different inputs or outputs": replace(
            whole, forms=[*whole.forms, Form(replace(whole.forms[0].entry, path="more.onnx"), decoder(tmp_path))]
        ),
    }
    for message, odd in wrong.items():
        with pytest.raises(InputError, match=message):
            write_bundle(tmp_path / "odd", odd)
    assert not (tmp_path / "odd").exists()


def reseal(bundle):
    import hashlib

    manifest = json.loads((bundle / "manifest.json").read_text())
    for name, digest in manifest["files"].items():
        data = (bundle / name).read_bytes()
        digest.update(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    text = json.dumps(manifest).encode()
    (bundle / "manifest.json").write_bytes(text)
    (bundle / "manifest.json.sha256").write_text(f"{hashlib.sha256(text).hexdigest()}  manifest.json\n")
