"""python -m compress.verify: every kind of side, every exit code, and sabotage that must not pass."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.judging.questions import questions_of
from compress.judging.testing import assert_no_drift
from compress.verification.predictions import PairScores, Predictions
from compress.verification.report.cases import findings
from compress.verification.report_data import ReportData
from compress.verify import Options, evaluate, verify
from runtime.bundles.seal import seal_of
from targets.errors import EnvironmentLacks, GateFailed, InputError

CLASSES = ("bolt", "nut", "screw", "washer")
SAMPLES, SIDE = 480, 8
PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": False,
    "size": {"height": SIDE, "width": SIDE},
    "image_mean": [0.5],
    "image_std": [0.5],
}
ROOT = Path(__file__).parents[2]


def templates() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(len(CLASSES), SIDE * SIDE)).astype(np.float32)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An npz of images that a linear classifier gets mostly right."""
    generator = np.random.default_rng(0)
    labels = generator.permutation(np.arange(SAMPLES) % len(CLASSES))
    pixels = 128 + 12 * templates()[labels] + 34 * generator.normal(size=(SAMPLES, SIDE * SIDE))
    path = tmp_path_factory.mktemp("data") / "parts.npz"
    images = np.clip(pixels, 0, 255).astype(np.uint8).reshape(SAMPLES, SIDE, SIDE)
    np.savez(path, images=images, labels=labels, class_names=np.array(CLASSES))
    return str(path)


def write_onnx(
    folder: Path, weight: np.ndarray, names: tuple[str, ...] = CLASSES, batch: int | str = "batch", beside: bool = True
) -> Path:
    """A linear classifier as an ONNX file, with its processor and labels beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["pixel_values"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
        ],
        "linear",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, [batch, 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, len(CLASSES)])],
        [numpy_helper.from_array(weight.T.copy(), "weight")],
    )
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    if beside:
        (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
        config = {"id2label": {str(k): name for k, name in enumerate(names)}, "num_channels": 1, "image_size": SIDE}
        (folder / "config.json").write_text(json.dumps(config))
    return path


def write_bundle(folder: Path, weight: np.ndarray, seen: bytes | None = None) -> Path:
    write_onnx(folder, weight, beside=False)
    if seen is not None:
        (folder / "healing-samples.npy").write_bytes(seen)
    tensors = ("pixel_values", ["batch", 1, SIDE, SIDE]), ("logits", ["batch", len(CLASSES)])
    inputs, outputs = ([{"name": name, "dtype": "float32", "shape": shape}] for name, shape in tensors)
    contents = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    manifest = {
        "schema": 1,
        "edgepress": "0.1.0",
        "task": "image-classification",
        "target": {"name": "cpu-x86"},
        "inputs": inputs,
        "outputs": outputs,
        "models": [{"path": "model.onnx", "runtime": "onnxruntime", "precision": "fp32"}],
        "files": {
            name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
            for name, content in contents.items()
        },
        "verdict": "pass",
        "labels": list(CLASSES),
        "preprocessing": {
            "kind": "image",
            "channels": 1,
            "size": [SIDE, SIDE],
            "resize": {"mode": "none"},
            "center_crop": None,
            "rescale": 1 / 255,
            "mean": [0.5],
            "std": [0.5],
        },
    }
    text = json.dumps(manifest).encode()
    (folder / "manifest.json").write_bytes(text)
    (folder / "manifest.json.sha256").write_bytes(seal_of(text))
    return folder


def record(model: str, data: str, folder: Path) -> Path:
    """The model's answers as a file."""
    questions = questions_of(model, model, data, "all")
    path = folder / "recorded.npz"
    questions.answers(questions.sides[0]).save(path)
    return path


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_onnx(tmp_path_factory.mktemp("reference"), templates()))


def run(reference: str, candidate: object, data: str | None, **options: object) -> int:
    return verify(Options(reference, str(candidate), data, part="all", **{"max_drop": 2.0, **options}))  # type: ignore[arg-type]


def test_a_candidate_as_good_as_its_original_passes_and_one_that_is_not_fails(
    reference: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nearly = templates() * 1.001
    assert run(reference, write_onnx(tmp_path / "good", nearly), data) == 0
    assert capsys.readouterr().out.endswith("verdict: pass\n")
    hurt = templates()
    hurt[2] *= 0.2
    assert run(reference, write_onnx(tmp_path / "bad", hurt), data) == 1
    assert capsys.readouterr().out.endswith("verdict: fail\n")


def test_a_bundle_and_a_fixed_batch_answer_as_the_file_does(reference: str, data: str, tmp_path: Path) -> None:
    html = tmp_path / "r.html"
    assert run(reference, write_bundle(tmp_path / "bundle", templates()), data, html=html) == 0
    assert "bit for bit" in html.read_text()
    assert run(reference, write_onnx(tmp_path / "fixed", templates(), batch=7), data) == 0


def test_a_bare_onnx_file_is_prepared_as_the_other_side_says(reference: str, data: str, tmp_path: Path) -> None:
    bare = write_onnx(tmp_path / "bare", templates(), beside=False)
    assert run(reference, bare, data) == 0
    with pytest.raises(InputError, match="preprocessor_config"):
        run(str(bare), bare, data)


@pytest.mark.parametrize("names", [{"1": "bad", "2": "good"}, {"0": "bad", "x": "good"}, ["bad", "good"], 5])
def test_a_config_whose_class_names_are_not_numbered_from_0_is_named(
    reference: str, data: str, tmp_path: Path, names: object
) -> None:
    path = write_onnx(tmp_path / "w", templates())
    (path.parent / "config.json").write_text(json.dumps({"id2label": names, "num_channels": 1, "image_size": SIDE}))
    with pytest.raises(InputError, match="id2label"):
        run(reference, path, data)


def test_predictions_from_a_file_stand_for_a_model(data: str, reference: str, tmp_path: Path) -> None:
    recorded = record(reference, data, tmp_path)
    assert run(str(recorded), reference, data) == 0
    other = record(str(write_onnx(tmp_path / "other", templates() * 1.001)), data, tmp_path / "other")
    assert run(str(recorded), other, None) == 0


def test_a_folder_of_the_original_library_and_its_compressed_form_agree(tmp_path: Path) -> None:
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    from compress import model as models
    from compress.data import preprocessing_from_hf
    from compress.tasks import read_checkpoint

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=SIDE,
        patch_size=4, num_channels=1, id2label=dict(enumerate(CLASSES)),
    )  # fmt: skip
    original = tmp_path / "original"
    ViTForImageClassification(config).save_pretrained(original)
    (original / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    models.save(read_checkpoint(original, preprocessing_from_hf(original)), tmp_path / "compressed")
    labels = np.arange(480) % 4
    images = np.random.default_rng(0).integers(0, 255, (480, SIDE, SIDE), dtype=np.uint8)
    np.savez(tmp_path / "d.npz", images=images, labels=labels, class_names=np.array(CLASSES))
    gate = tmp_path / "gate.toml"
    gate.write_text('[[check]]\nmetric = "max_logit_error"\nmax_value = 1e-4\n')
    code = run(str(original), tmp_path / "compressed", str(tmp_path / "d.npz"), gate=gate, max_drop=None)
    assert code == 0


def test_every_output_is_written_and_says_the_same(
    reference: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "step.md"))
    (tmp_path / "step.md").write_text("before\n")
    candidate = write_onnx(tmp_path / "bad", templates()[::-1].copy())
    junit, sarif, summary, html = (tmp_path / name for name in ("j.xml", "s.sarif", "s.md", "r.html"))
    assert run(reference, candidate, data, junit=junit, sarif=sarif, summary=summary, html=html, as_json=True) == 1
    out, err = capsys.readouterr()
    report = ReportData.from_json(out)
    assert report.verdict == "fail" and err.endswith("verdict: fail\n")
    assert ElementTree.parse(junit).getroot().get("failures") == "1"
    assert len(json.loads(sarif.read_text())["runs"][0]["results"]) == 1
    assert summary.read_text().startswith("# ❌ Failed")
    assert (tmp_path / "step.md").read_text() == "before\n" + summary.read_text()
    assert report.pictures and html.read_text().count("data:image/png") == len(report.pictures)


# ---- sabotage ----


def test_swapped_class_labels_do_not_pass(reference: str, data: str, tmp_path: Path) -> None:
    swapped = ("nut", "bolt", "screw", "washer")
    assert run(reference, write_onnx(tmp_path / "s", templates(), names=swapped), data) == 1


def test_a_nan_in_one_weight_does_not_pass(reference: str, data: str, tmp_path: Path) -> None:
    weight = templates()
    weight[1, 5] = np.nan
    assert run(reference, write_onnx(tmp_path / "n", weight), data) == 1
    with pytest.raises(GateFailed, match=r"finite|NaN"):
        run(reference, write_bundle(tmp_path / "b", weight), data)


def test_a_wrong_normalization_does_not_pass(reference: str, data: str, tmp_path: Path) -> None:
    candidate = write_onnx(tmp_path / "w", templates())
    (candidate.parent / "preprocessor_config.json").write_text(json.dumps({**PROCESSOR, "image_mean": [-0.9]}))
    assert run(reference, candidate, data) == 1


def test_a_changed_byte_of_a_bundle_is_an_input_error(reference: str, data: str, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b", templates())
    content = bytearray((bundle / "model.onnx").read_bytes())
    content[-3] ^= 1
    (bundle / "model.onnx").write_bytes(content)
    with pytest.raises(InputError, match=r"model\.onnx"):
        run(reference, bundle, data)


def test_a_mangled_opset_is_the_environments_error(reference: str, data: str, tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "o", templates())
    model = onnx.load(path)
    model.opset_import[0].version = 99
    onnx.save(model, path)
    with pytest.raises(EnvironmentLacks, match="cannot load"):
        run(reference, path, data)


def test_a_candidate_that_repeats_the_reference_is_told_and_can_be_gated(
    reference: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(reference, reference, data) == 0
    assert "bit for bit" in capsys.readouterr().out
    gate = tmp_path / "gate.toml"
    gate.write_text('[[check]]\nmetric = "max_logit_error"\nmin_value = 1e-9\n')
    assert run(reference, reference, data, gate=gate, max_drop=None) == 1


def test_a_bundle_without_two_dimensional_outputs_is_refused(reference: str, data: str, tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "x", templates())
    model = onnx.load(path)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["batch"]))
    onnx.save(model, path)
    with pytest.raises((InputError, EnvironmentLacks)):
        run(reference, path, data)


def test_a_wrong_normalization_of_both_sides_is_not_a_drop_of_nothing(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_onnx(tmp_path / "w", templates())
    (path.parent / "preprocessor_config.json").write_text(json.dumps({**PROCESSOR, "image_mean": [1e4]}))
    assert run(str(path), path, data) == 1
    assert "answers without regard to the input" in capsys.readouterr().out


def write_memory(folder: Path, reference: str, data: str) -> Path:
    """An ONNX file that finds the nearest image of the data in its memory and repeats the reference's logits for it."""
    questions = questions_of(reference, reference, data, "all")
    side = questions.sides[0]
    pixels = np.concatenate([one["pixel_values"] for one in questions.prepared(side).batches(64)]).reshape(SAMPLES, -1)
    answers = questions.answers(side).arrays()["logits"]
    path = write_onnx(folder, pixels)
    model = onnx.load(path)
    nodes = [
        *model.graph.node[:1],
        helper.make_node("MatMul", ["flat", "weight"], ["similarity"]),
        helper.make_node("Add", ["similarity", "offset"], ["score"]),
        helper.make_node("ArgMax", ["score"], ["nearest"], axis=1, keepdims=0),
        helper.make_node("Gather", ["answers", "nearest"], ["logits"]),
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    offset = -0.5 * (pixels**2).sum(axis=1)
    model.graph.initializer.extend(
        [numpy_helper.from_array(offset, "offset"), numpy_helper.from_array(answers, "answers")]
    )
    onnx.save(model, path)
    return path


def test_a_candidate_that_answers_from_a_memory_of_the_reference_does_not_pass(
    reference: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = write_memory(tmp_path / "m", reference, data)
    assert run(reference, memory, data) == 1
    assert "error    fresh inputs: the candidate repeats the reference bit for bit" in capsys.readouterr().out
    assert run(str(write_onnx(tmp_path / "r", templates() * 1.01)), memory, data) == 1
    assert "knows the data by heart" in capsys.readouterr().out


def test_a_recording_of_the_reference_is_not_a_candidate(reference: str, data: str, tmp_path: Path) -> None:
    recorded = record(reference, data, tmp_path)
    assert run(reference, recorded, data) == 1
    assert run(str(recorded), recorded, None) == 1
    assert run(str(recorded), shutil.copy(recorded, tmp_path / "copy.npz"), None) == 1


def test_evaluation_on_images_that_the_model_was_healed_on_does_not_pass(
    reference: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from compress.data import load, seen

    for name, used in (("other", [(1,)]), ("same", load(data).fingerprints()[7:9])):
        write_bundle(tmp_path / name, templates(), seen.to_bytes(used))
    assert run(reference, tmp_path / "other", data) == 0
    assert "pass     unseen samples: none of the 480 samples" in capsys.readouterr().out
    assert run(reference, tmp_path / "same", data) == 1
    assert "error    unseen samples: 2 of 480 samples" in capsys.readouterr().out


# ---- where the drift comes from, and stopping early ----


def test_the_first_step_beyond_the_bound_is_found_by_bisection(reference: str, data: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(3).normal(size=templates().shape).astype(np.float32)
    sizes = (0.01, 0.02, 0.03, 0.9, 1.0)
    steps = [write_onnx(tmp_path / f"s{k}", templates() + size * noise) for k, size in enumerate(sizes)]
    names = tuple(map(str, steps))
    report = evaluate(Options(reference, names[-1], data, "all", max_drop=2.0, steps=names[:-1])).report
    assert [row.name for row in report.stages if row.status == "first beyond the bound"] == [names[3]]
    assert [row.status for row in report.stages].count("not measured") >= 1
    assert findings(report) == [f"The first step that loses more than the gate allows is {names[3]}."]
    report = evaluate(Options(reference, names[1], data, "all", max_drop=2.0, steps=names[:1])).report
    assert findings(report) == ["No step loses more than the gate allows."]


def test_blocks_are_compared_where_both_sides_have_them(tmp_path: Path) -> None:
    from compress import model as models
    from compress import zoo
    from compress.data import preprocessing_from_hf
    from compress.tasks import read_checkpoint

    folder = zoo.locate("zoo:vit-mnist")
    model = read_checkpoint(folder, preprocessing_from_hf(folder))
    model.block(4).ffn.down.weight.data.mul_(0.5)  # type: ignore[union-attr]
    models.save(model, tmp_path / "hurt")
    with np.load(ROOT / "compress" / "zoo" / "mnist" / "test.npz") as file:
        names = np.array([str(k) for k in range(10)])
        np.savez(tmp_path / "d.npz", images=file["images"][:100], labels=file["labels"][:100], class_names=names)
    report = evaluate(Options("zoo:vit-mnist", str(tmp_path / "hurt"), str(tmp_path / "d.npz"), "all")).report
    assert max(report.blocks, key=lambda row: row.own_error or 0).name == "block 4"
    assert "largest error of its own is that of block 4" in findings(report)[0]


def test_stopping_early_gives_the_same_verdict_from_fewer_samples(
    reference: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = write_onnx(tmp_path / "bad", templates()[::-1].copy())
    assert run(reference, bad, data, stop_early=True) == 1
    assert "stopped after" in capsys.readouterr().out
    gate = tmp_path / "gate.toml"
    gate.write_text('stop_early = 0.01\n[[check]]\nmetric = "top1"\nmax_drop = 3.0\n')
    good = write_onnx(tmp_path / "good", templates() * 1.001)
    assert run(reference, good, data, gate=gate, max_drop=None) == 0
    assert "certain (up to an error of 1 %) that it passes on all" in capsys.readouterr().out


# ---- slices ----


def test_slices_of_the_users_are_reported_and_judged(
    reference: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from compress.data import load

    images = load(data)
    hurt = templates()
    hurt[2] *= 0.2
    cameras = ("left" if label == 2 else "right" for label in images.labels)
    lines = ["sample,slice", *(f"{name},{camera}" for name, camera in zip(images.names, cameras, strict=True))]
    (tmp_path / "cameras.csv").write_text("\n".join(lines) + "\n")
    gate = tmp_path / "gate.toml"
    gate.write_text('[[check]]\nmetric = "top1"\nmax_drop = 8.0\nper = "slice"\n')
    bad = write_onnx(tmp_path / "bad", hurt)
    assert run(reference, bad, data, gate=gate, max_drop=None, slices=tmp_path / "cameras.csv") == 1
    out = capsys.readouterr().out
    assert "fail     top1 slice left" in out and "pass     top1 slice right" in out
    assert run(reference, reference, data, gate=gate, max_drop=None) == 0
    assert "top1 slice darkest quarter" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first line must be sample,slice"),
        ("sample,slice\n", "no rows"),
        ("sample,slice\nabsent,left\n", "1 samples are not in the data"),
        ("sample,slice\nx\n", "line 2"),
    ],
)
def test_a_damaged_file_of_slices_is_an_input_error(
    text: str, message: str, reference: str, data: str, tmp_path: Path
) -> None:
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        run(reference, reference, data, slices=tmp_path / "s.csv")


# ---- copies ----


@pytest.mark.parametrize("stop_early", [False, True])
def test_images_that_are_in_the_data_many_times_count_once(
    stop_early: bool, reference: str, data: str, tmp_path: Path
) -> None:
    with np.load(data) as arrays:
        repeated = {name: np.tile(arrays[name][:60], (8, 1, 1)[: arrays[name].ndim]) for name in ("images", "labels")}
        np.savez(tmp_path / "repeated.npz", **repeated, class_names=arrays["class_names"])
    candidate = write_onnx(tmp_path / "same", templates())
    options = Options(reference, str(candidate), str(tmp_path / "repeated.npz"), "all", max_drop=2.0)
    report = evaluate(options._replace(stop_early=stop_early)).report
    assert report.drift is not None
    assert (report.drift.samples, report.drift.copies, report.verdict) == (60, 420, "fail")
    assert "With 60 samples" in report.drift.gate.message
    assert all(index < 60 for index in report.sources)


def test_copies_are_left_out_beside_recorded_answers_too(reference: str, data: str, tmp_path: Path) -> None:
    with np.load(data) as arrays:
        repeated = {name: np.tile(arrays[name][:60], (8, 1, 1)[: arrays[name].ndim]) for name in ("images", "labels")}
        np.savez(tmp_path / "repeated.npz", **repeated, class_names=arrays["class_names"])
    recorded = tmp_path / "recorded.npz"
    Predictions(np.eye(4)[repeated["labels"]], repeated["labels"], list(CLASSES)).save(recorded)
    report = evaluate(Options(reference, str(recorded), str(tmp_path / "repeated.npz"), "all", max_drop=2.0)).report
    assert report.drift is not None and (report.drift.samples, report.drift.copies) == (60, 420)


# ---- baseline ----


def test_a_baseline_is_written_on_request_and_holds_later_runs_to_it(
    reference: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline = tmp_path / "results.json"
    better, poor = templates(), templates() + 0.35 * np.random.default_rng(2).normal(size=(4, 64)).astype(np.float32)
    good, bad = write_onnx(tmp_path / "g", better), write_onnx(tmp_path / "p", poor)
    with pytest.raises(InputError, match="--update-baseline"):
        run(reference, good, data, baseline=baseline)
    assert run(reference, good, data, baseline=baseline, update_baseline=True) == 0
    first = baseline.read_bytes()
    assert run(reference, good, data, baseline=baseline) == 0
    assert baseline.read_bytes() == first
    capsys.readouterr()
    assert run(str(bad), bad, data, baseline=baseline) == 1
    out = capsys.readouterr().out
    assert "fail     baseline: since the last accepted run" in out and "pass     top1" in out
    assert run(reference, good, data, baseline=baseline, update_baseline=True) == 0
    assert len(json.loads(baseline.read_text())["history"]) == 2
    assert run(reference, good, data, baseline=baseline, update_baseline=True, label="4d93c5") == 0
    report = evaluate(Options(reference, str(good), data, "all", max_drop=2.0, baseline=baseline)).report
    assert json.loads(baseline.read_text())["history"][-1]["label"] == "4d93c5"
    accepted, this = report.curves[0].series
    assert accepted.x == (1, 2, 3) and this.x == (4,) and len(set(accepted.y + this.y)) == 1


def test_a_failed_run_is_never_accepted_and_other_data_never_compared(
    reference: str, data: str, tmp_path: Path
) -> None:
    baseline = tmp_path / "results.json"
    bad = write_onnx(tmp_path / "p", templates()[::-1].copy())
    assert run(reference, bad, data, baseline=baseline, update_baseline=True) == 1
    assert not baseline.exists()
    assert run(reference, reference, data, baseline=baseline, update_baseline=True) == 0
    other = tmp_path / "other.npz"
    Predictions(np.eye(4)[np.arange(480) % 4], np.arange(480) % 4).save(other)
    assert run(str(other), other, None, baseline=baseline) == 1
    scores = tmp_path / "scores.npz"
    PairScores(np.arange(480.0), np.arange(480.0)).save(scores)
    assert run(str(scores), scores, None, baseline=baseline) == 1


def test_a_run_that_failed_by_any_check_but_the_drift_is_not_accepted_either(
    reference: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from compress.data import load, seen

    for role in ("reference", "candidate"):
        Predictions(np.eye(4)[np.arange(480) % 4], np.arange(480) % 4).save(tmp_path / f"{role}.npz")
    accept = {"baseline": tmp_path / "results.json", "update_baseline": True}
    sides = str(tmp_path / "reference.npz"), tmp_path / "candidate.npz"
    assert run(*sides, None, **accept) == 1  # the reference's own recorded answers
    assert run(reference, write_memory(tmp_path / "m", reference, data), data, **accept) == 1  # fresh inputs
    healed = write_bundle(tmp_path / "h", templates(), seen.to_bytes(load(data).fingerprints()[7:9]))
    capsys.readouterr()
    assert run(reference, healed, data, **accept) == 1  # unseen samples
    told = capsys.readouterr()
    assert "pass     top1" in told.out and "only a run that passes is accepted" in told.err
    assert not accept["baseline"].exists()
    assert run(reference, reference, data, **accept) == 0
    before = accept["baseline"].read_bytes()
    assert run(reference, healed, data, **accept) == 1 and accept["baseline"].read_bytes() == before


@pytest.mark.parametrize("text", ["", "{}", '{"schema": 2}', "\x00"])
def test_a_damaged_baseline_is_an_input_error(text: str, reference: str, data: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(InputError, match=r"results\.json"):
        run(reference, reference, data, baseline=tmp_path / "results.json")


def test_damaged_answers_in_a_baseline_do_not_pass(reference: str, data: str, tmp_path: Path) -> None:
    baseline = tmp_path / "results.json"
    assert run(reference, reference, data, baseline=baseline, update_baseline=True) == 0
    table = json.loads(baseline.read_text())
    for answers in ("AAAA", "§", ""):
        baseline.write_text(json.dumps(table | {"answers": answers}))
        assert run(reference, reference, data, baseline=baseline) == 1


# ---- a team's own tests ----


def test_a_teams_own_test_fails_with_what_did_not_pass(reference: str, data: str, tmp_path: Path) -> None:
    good, bad = write_onnx(tmp_path / "g", templates()), write_onnx(tmp_path / "b", templates()[::-1].copy())
    assert assert_no_drift(reference, good, data, max_drop=2.0, part="all").verdict == "pass"
    baseline = tmp_path / "results.json"
    assert run(reference, good, data, baseline=baseline, update_baseline=True) == 0
    assert assert_no_drift(reference, good, data, max_drop=2.0, part="all", baseline=baseline).curves
    with pytest.raises(AssertionError, match=r"drifted from.*\(fail\)\ntop1 overall max_drop 2"):
        assert_no_drift(reference, bad, data, max_drop=2.0, part="all")


# ---- usage ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": None}, "--data"),
        ({"candidate": "absent"}, "no model at absent"),
        ({"candidate": "zoo:absent"}, "zoo model"),
        ({"data": "absent"}, "no data at absent"),
        ({"gate": Path("gate.toml")}, "not both"),
        ({"update_baseline": True}, "--update-baseline needs"),
        ({"stop_early": True, "baseline": Path("results.json")}, "--stop-early leaves samples out"),
        ({"label": "4d93c5"}, "--label names a run"),
        ({"candidate": "/tmp"}, "not a model that can be read"),
    ],
)
def test_wrong_usage_is_one_clear_line(options: dict[str, object], message: str, reference: str, data: str) -> None:
    values = {"candidate": reference, "data": data, **options}
    with pytest.raises(InputError, match=message):
        run(reference, values.pop("candidate"), values.pop("data"), **values)  # type: ignore[arg-type]


def command(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    whole = [sys.executable, "-m", "compress.verify", *arguments]
    return subprocess.run(whole, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_the_command_ends_with_the_exit_codes_of_the_house_and_never_a_traceback(tmp_path: Path) -> None:
    labels = np.arange(600) % 3
    good = Predictions(5 * np.eye(3)[labels], labels)
    broken = Predictions(good.logits.copy(), labels)
    broken.logits[3] = np.nan
    good.save(tmp_path / "good.npz")
    Predictions(4 * np.eye(3)[labels], labels).save(tmp_path / "near.npz")
    broken.save(tmp_path / "broken.npz")
    Predictions(5 * np.eye(3)[(labels + 1) % 3], labels).save(tmp_path / "bad.npz")
    (tmp_path / "broken.onnx").write_bytes(b"no onnx")
    np.savez(tmp_path / "data.npz", images=np.zeros((600, 8, 8), np.uint8), labels=labels)
    expected = {
        ("good.npz", "near.npz"): 0,
        ("good.npz", "good.npz"): 1,
        ("good.npz", "bad.npz"): 1,
        ("good.npz", "broken.npz"): 1,
        ("good.npz", "absent.npz"): 2,
        ("good.npz",): 2,
        ("good.npz", "good.npz", "--part", "some"): 2,
        ("good.npz", "good.npz", "--html", "good.npz/x.html"): 2,
        ("good.npz", "broken.onnx", "--data", "data.npz"): 3,
    }
    for arguments, code in expected.items():
        ended = command(*arguments, folder=tmp_path)
        assert ended.returncode == code, (arguments, ended.stderr)
        assert "Traceback" not in ended.stderr


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    script = (
        "import sys, compress.verify; "
        "heavy = {'torch', 'numpy', 'scipy', 'pydantic', 'onnxruntime', 'transformers'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_the_numeric_core_imports_no_torch() -> None:
    script = (
        "import sys; from compress.verification import drift, gate, report, sequential, baseline; "
        "from compress.judging import sides; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


def test_without_transformers_a_folder_is_run_by_edgepress_and_answers_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    from compress.judging.sides import open_side

    pixels = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    theirs = open_side("zoo:vit-cifar10")
    monkeypatch.setitem(sys.modules, "transformers", None)
    ours = open_side("zoo:vit-cifar10")
    assert theirs.runs_on.startswith("transformers") and "transformers" not in ours.runs_on
    np.testing.assert_allclose(*(side.call({"pixel_values": pixels})["logits"] for side in (ours, theirs)), atol=1e-4)


def test_a_wrong_command_line_is_told_in_one_line_by_both_commands() -> None:
    for module in ("verify", "run"):
        command = [sys.executable, "-m", f"compress.{module}", "a", "b", "--max-drop", "abc"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
        assert done.returncode == 2 and not done.stdout
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and "--max-drop" in done.stderr


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"max_drop": float("nan")}, "--max-drop is nan; allowed: a finite number of 0 or more"),
        ({"max_drop": float("inf")}, "--max-drop is inf; allowed: a finite number of 0 or more"),
        ({"max_drop": -1.0}, "--max-drop is -1.0; allowed: a finite number of 0 or more"),
        ({"junit": Path("/proc/none/junit.xml")}, "cannot write /proc/none"),
        ({"html": Path("/tmp")}, "cannot write /tmp: it is a folder"),
    ],
)
def test_what_would_fail_at_the_end_fails_before_anything_is_opened(change: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        verify(Options("nothing", "here", **change))
