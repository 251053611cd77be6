"""Bundles: what is in them, that the device side reads them, equal bytes, and that no kill leaves half of one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.mini_models import LABELS, cell_inputs, images

from export import folders
from export.bundle import BundleContent, Form, write_bundle, write_zipped
from export.cpu_graph import optimize_for_cpu
from export.precision.int8_dynamic import to_int8_dynamic
from export.sizes import measure
from runtime import ort
from runtime.bundles.bundle import open_files
from runtime.bundles.golden import check_golden, load_golden
from runtime.bundles.manifest import BundleTarget, ModelFile, State
from runtime.field.drift import Spread, Summary
from runtime.files import sha256_of
from targets.errors import GateFailed, InputError

PREPROCESSING = {
    "kind": "image",
    "channels": 3,
    "size": [16, 16],
    "resize": {"mode": "exact", "size": [16, 16], "resample": "bilinear"},
    "center_crop": None,
    "rescale": 1 / 255,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
}


@pytest.fixture(scope="module")
def int8_file(vit_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8")
    optimize_for_cpu(vit_file, folder / "fused.onnx")
    return to_int8_dynamic(folder / "fused.onnx", folder / "int8.onnx").path


@pytest.fixture
def content(vit_file: Path, int8_file: Path, tmp_path: Path) -> BundleContent:
    config = tmp_path / "hf" / "config.json"
    config.parent.mkdir()
    config.write_text('{"model_type": "vit"}\n')
    return BundleContent(
        task="image-classification",
        target=BundleTarget("cpu-x86", precision="int8", profile={"batch": (1, 1, 8)}),
        forms=[
            Form(ModelFile("model.cpu.onnx", "onnxruntime", "int8", "dynamic int8"), int8_file),
            Form(ModelFile("model.onnx", "onnxruntime", "fp32"), vit_file),
        ],
        golden={"model": {"pixel_values": images(3)["pixel_values"].numpy()}},
        edgepress="0.1.0",
        verdict="pass",
        preprocessing=PREPROCESSING,
        postprocessing={"kind": "softmax"},
        labels=[f"class {index}" for index in range(LABELS)],
        drift={"metric": "top-1", "drop": 0.1},
        versions={"torch": "2.13.0"},
        files={"config.json": config, "reports/report.md": config},
        looks=Summary({"length": Spread((3.0,), (40, 60))}),
    )


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_device_side_reads_what_was_written(content: BundleContent, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", content)
    opened = open_files(folder)
    manifest = opened.manifest
    assert manifest.verdict == "pass" and manifest.target.profile == {"batch": (1, 1, 8)}
    assert [one.path for one in manifest.models] == ["model.cpu.onnx", "model.onnx"]
    assert [(one.name, one.shape) for one in manifest.inputs] == [("pixel_values", ("batch", 3, 16, 16))]
    assert [(one.name, one.shape) for one in manifest.outputs] == [("logits", ("batch", LABELS))]
    assert manifest.preprocessing == PREPROCESSING and manifest.labels == tuple(content.labels or ())
    raw = json.loads((folder / "manifest.json").read_text())
    assert raw["schema"] == 1 and raw["drift"] == {"metric": "top-1", "drop": 0.1}
    assert set(raw["files"]) == set(tree(folder)) - {"manifest.json", "manifest.json.sha256"}
    assert Summary.load(folder / "inputs.json") == content.looks
    for name, digest in raw["files"].items():
        assert digest == {"sha256": sha256_of(folder / name), "bytes": (folder / name).stat().st_size}


def test_every_form_keeps_the_golden_tolerance(content: BundleContent, tmp_path: Path) -> None:
    opened = open_files(write_bundle(tmp_path / "bundle", content))
    expected = load_golden(opened)
    assert set(expected.inputs) == {"pixel_values"} and set(expected.outputs) == {"logits"}
    for form in content.forms:
        result = check_golden(ort.load(form.source, threads=1).run, expected)
        assert all(result) and result[0].max_error < result[0].atol
    scale = np.abs(expected.outputs["logits"]).max()
    assert expected.atol["logits"] < 0.1 * scale


def test_golden_outputs_are_those_of_model_onnx(content: BundleContent, vit_file: Path, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", content)
    with np.load(folder / "golden.npz", allow_pickle=False) as arrays:
        assert sorted(arrays.files) == ["atol_logits", "input_pixel_values", "output_logits"]
        assert arrays["atol_logits"].shape == ()
        found = ort.load(vit_file, threads=1).run({"pixel_values": arrays["input_pixel_values"]})
        np.testing.assert_array_equal(arrays["output_logits"], found["logits"])


def test_state_is_listed_apart_from_inputs_and_outputs(cell_file: Path, tmp_path: Path) -> None:
    inputs = {name: value.numpy() for name, value in cell_inputs(2, 3).items()}
    states = [
        State("past_s", "present_s", "float32", ("batch", 48, 48)),
        State("past_z", "present_z", "float32", ("batch", 48, 1)),
    ]
    content = BundleContent(
        task="causal-lm",
        target=BundleTarget("cpu-x86"),
        forms=[Form(ModelFile("model.onnx", "onnxruntime", "fp32"), cell_file)],
        golden={"model": inputs},
        edgepress="0.1.0",
        verdict="fail",
    )
    manifest = open_files(write_bundle(tmp_path / "bundle", content)).manifest
    assert manifest.verdict == "fail" and manifest.state == tuple(states)
    assert [one.name for one in manifest.inputs] == ["x"] and [one.name for one in manifest.outputs] == ["y"]


def test_equal_content_gives_equal_bytes(content: BundleContent, tmp_path: Path) -> None:
    one, two = write_bundle(tmp_path / "one", content), write_bundle(tmp_path / "deep" / "two", content)
    assert tree(one) == tree(two)
    zips = [write_zipped(folder, tmp_path / f"{folder.name}.zip").read_bytes() for folder in (one, two)]
    assert zips[0] == zips[1]


def test_a_zip_opens_as_the_folder_does(
    content: BundleContent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "cache"))
    folder = write_bundle(tmp_path / "bundle", content)
    opened = open_files(write_zipped(folder, tmp_path / "bundle.zip"))
    assert opened.manifest == open_files(folder).manifest and tree(opened.root) == tree(folder)
    (folder / "config.json").write_text("changed")
    with pytest.raises(InputError, match=r"config\.json"):
        write_zipped(folder, tmp_path / "bad.zip")
    assert not (tmp_path / "bad.zip").exists()


def test_an_older_bundle_is_replaced_and_nothing_is_left_over(content: BundleContent, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", content)
    write_bundle(folder, replace(content, verdict="fail", files={}))
    assert open_files(folder).manifest.verdict == "fail"
    assert not (folder / "config.json").exists() and not (folder / "reports").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "hf"]


def test_it_is_replaced_too_where_the_system_cannot_exchange(
    content: BundleContent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_bundle(tmp_path / "bundle", content)
    monkeypatch.setattr(folders, "_exchange", lambda first, second: False)
    write_bundle(folder, replace(content, verdict="fail"))
    assert open_files(folder).manifest.verdict == "fail"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "hf"]


@pytest.mark.parametrize("what", ["folder", "file", "link"])
def test_what_is_no_bundle_is_not_replaced(content: BundleContent, tmp_path: Path, what: str) -> None:
    place = tmp_path / "mine"
    if what == "folder":
        place.mkdir()
        (place / "thesis.txt").write_text("precious")
    elif what == "file":
        place.write_text("precious")
    else:
        place.symlink_to(tmp_path / "hf")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"not a folder|no bundle"):
        write_bundle(place, content)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_content_that_does_not_fit_is_refused(
    content: BundleContent, cell_file: Path, vit_file: Path, tmp_path: Path
) -> None:
    main = content.forms[1]
    missing = tmp_path / "missing"
    other = Form(ModelFile("other.onnx", "onnxruntime", "fp32"), cell_file)
    for change, message in [
        ({"forms": content.forms[:1]}, "a bundle needs model.onnx"),
        ({"forms": [main, main]}, "twice"),
        ({"forms": [main, other]}, "different inputs or outputs"),
        ({"files": {"config.json": missing}}, "is missing; it should become config.json"),
        ({"files": {"../x": vit_file}}, "cannot be a file of a bundle"),
        ({"files": {"manifest.json": vit_file}}, "cannot be a file of a bundle"),
        ({"drift": {"drop": float("nan")}}, "plain JSON"),
        ({"golden": {"model": {"nothing": np.zeros(1)}}}, "refused the inputs"),
        ({"preprocessing": {"kind": "image"}}, "preprocessing"),
    ]:
        with pytest.raises(InputError, match=message):
            write_bundle(tmp_path / "bundle", replace(content, **change))
        assert not (tmp_path / "bundle").exists()
    with pytest.raises(GateFailed, match="not finite"):
        bad = {"pixel_values": np.full((1, 3, 16, 16), np.inf, np.float32)}
        write_bundle(tmp_path / "bundle", replace(content, golden={"model": bad}))
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


KILLED = """
import sys, time
from pathlib import Path
import numpy as np
from export.bundle import BundleContent, Form, write_bundle
from runtime.bundles.manifest import BundleTarget, ModelFile
model, folder = Path(sys.argv[1]), Path(sys.argv[2])
for turn in range(10000):
    write_bundle(folder, BundleContent(
        task="image-classification", target=BundleTarget("cpu-x86"),
        forms=[Form(ModelFile("model.onnx", "onnxruntime", "fp32"), model)],
        golden={"model": {"pixel_values": np.ones((1, 3, 16, 16), np.float32)}},
        edgepress=f"0.1.{turn}", verdict="pass", files={f"note{turn % 3}": Path(__file__)}))
    print(turn, flush=True)
"""


def test_a_kill_at_any_moment_leaves_a_whole_bundle(vit_file: Path, tmp_path: Path) -> None:
    script, folder = tmp_path / "write.py", tmp_path / "out" / "bundle"
    script.write_text(KILLED)
    random = np.random.default_rng(0)
    for _ in range(6):
        child = subprocess.Popen([sys.executable, script, vit_file, folder], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline().strip() == "0"
        time.sleep(random.uniform(0, 0.1))
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        opened = open_files(folder)
        assert set(tree(folder)) == {"manifest.json", "manifest.json.sha256", *opened.manifest.files}
    write = [sys.executable, "-c", KILLED.replace("range(10000)", "range(1)").replace("__file__", "sys.argv[1]")]
    subprocess.run([*write, vit_file, folder], check=True, capture_output=True)
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_a_full_disk_is_the_environments_fault(
    content: BundleContent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    folder = write_bundle(tmp_path / "bundle", content)
    before = tree(folder)
    monkeypatch.setattr(shutil, "copyfileobj", full)
    from targets.errors import EnvironmentLacks

    with pytest.raises(EnvironmentLacks, match="no space left"):
        write_bundle(folder, content)
    assert tree(folder) == before and sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "hf"]


def test_sizes_count_each_weight_once(vit_file: Path, looped_file: Path, int8_file: Path) -> None:
    from support.mini_models import MiniViT

    parameters = sum(one.numel() for one in MiniViT().parameters())
    plain, looped, int8 = measure(vit_file), measure(looped_file, {"batch": 1}), measure(int8_file)
    assert plain.parameters == looped.parameters == parameters
    tokens, hidden = 17, 48
    layer = tokens * (4 * hidden * hidden + 2 * hidden * 96) + 2 * tokens * tokens * hidden
    patch = 16 * hidden * 48
    assert plain.macs == 2 * layer + patch + hidden * LABELS
    assert looped.macs == 6 * layer + patch + hidden * LABELS
    assert measure(vit_file, {"batch": 4}).macs == 4 * plain.macs
    assert int8.macs is None and int8.weight_bytes < 0.4 * plain.weight_bytes
    assert plain.bytes == vit_file.stat().st_size and plain.weight_bytes < plain.bytes
