"""What users get wrong: one line that says what, where and what to do, the right exit code, nothing half-written."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from support.jobs import ROOT, SMALL, command, compress, in_haste, one_line_error

import targets
from compress import run
from compress.data import preprocessing_from_hf
from compress.model import save
from compress.pipeline import StageContext
from compress.pipeline.events import Event, Level, Logged
from compress.recipe import parse
from compress.stages import answers, data
from compress.stages.artifacts import OnnxModel, SourceModel
from compress.stages.graph import Job, build_graph
from compress.tasks import read_checkpoint
from compress.tasks.task import DataChoice
from targets.errors import InputError

ZOO = ROOT / "compress" / "zoo"
RUN = ["--target", "cpu", "--recipe", "identity", "--max-drop", "6", "--set", "calibrate.samples=8"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(ZOO / "vit-mnist", folder)
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    with np.load(ZOO / "mnist" / "test.npz") as data:
        for label in range(10):
            folder = root / str(label)
            folder.mkdir(parents=True)
            for index in np.flatnonzero(data["labels"] == label)[:6]:
                Image.fromarray(data["images"][index]).save(folder / f"{index}.png")
    return root


def refused(tmp_path: Path, *arguments: str, code: int = 2) -> str:
    done = command(tmp_path / "cache", *RUN, *arguments, "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out" / "bundle").exists()
    return one_line_error(done, code)


def test_a_missing_model_folder_is_named(tmp_path: Path) -> None:
    assert "nowhere" in refused(tmp_path, "--model", str(tmp_path / "nowhere"), "--data", "zoo:mnist-test")


def test_a_resnet_folder_is_refused_with_the_known_types(tmp_path: Path, model: Path) -> None:
    (model / "config.json").write_text(json.dumps({"model_type": "resnet", "image_size": 28}))
    error = refused(tmp_path, "--model", str(model), "--data", "zoo:mnist-test")
    assert "resnet" in error and "vit" in error


def test_a_truncated_checkpoint_is_named(tmp_path: Path, model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert "model.safetensors is damaged or truncated" in refused(
        tmp_path, "--model", str(model), "--data", "zoo:mnist-test"
    )


def test_nan_weights_are_found_before_anything_is_computed(tmp_path: Path, model: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(model / "model.safetensors")
    tensors["mlp_head.1.weight"][3, 5] = np.nan
    save_file(tensors, model / "model.safetensors")
    error = refused(tmp_path, "--model", str(model), "--data", "zoo:mnist-test")
    assert "mlp_head.1.weight" in error and "NaN" in error


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('[[rewrite]]\nuse = "afine-mlp"', "affine-mlp"),
        ('[[rewrite]]\nuse = "affine-mlp"\nlayer = "all"', "layers"),
        ("[[rewrite]]\nrank = 3", "use = NAME"),
        ("[heal]\nstps = 3", "did you mean 'steps'?"),
        ("[hael]\nsteps = 3", "heal"),
        ('[gate]\nconfidence = "much"', "confidence"),
    ],
)
def test_a_misspelt_recipe_names_the_key_and_the_nearest(tmp_path: Path, text: str, wanted: str) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(text)
    error = refused(tmp_path, "--model", "zoo:vit-mnist", "--recipe", str(recipe))
    assert wanted in error


@pytest.mark.parametrize(
    ("heal", "named"),
    [({"steps": 3}, "heal.hidden = 0"), ({"transfer_steps": 2, "attention_steps": 1}, "heal.transfer_steps = 0")],
)
def test_healing_that_compares_tokens_is_refused_before_any_work_behind_a_narrower_stream(
    heal: dict[str, int], named: str, tmp_path: Path
) -> None:
    def job(heal: dict[str, float]) -> Job:
        rewrites = [{"use": "slice-width", "width": 0.5}]
        recipe = parse({"model": {"source": "zoo:vit-mnist"}, "rewrite": rewrites, "heal": heal}, "test")
        return Job(recipe, "test", targets.load("cpu"), 0, tmp_path / "memo.json")

    with pytest.raises(InputError, match=f"slice-width leaves tokens narrower.*{named}"):
        build_graph(job(heal))
    build_graph(job({"steps": 3, "hidden": 0.0}))


def test_a_class_count_that_differs_is_told_with_both_numbers(tmp_path: Path, images: Path) -> None:
    shutil.rmtree(images / "9")
    done = compress(tmp_path / "cache", *RUN, "--model", "zoo:vit-mnist", "--data", str(images))
    error = one_line_error(done, 2)
    assert "9 classes" in error and "10" in error
    assert "data: failed" in done.stdout and "export: started" not in done.stdout


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Of vit-mnist as the source stage writes it, and two empty ones."""
    folders = [tmp_path / name for name in ("source", "export", "made")]
    for folder in folders:
        folder.mkdir()
    save(read_checkpoint(ZOO / "vit-mnist", preprocessing_from_hf(ZOO / "vit-mnist")), folders[0])
    return folders


def test_too_few_samples_for_the_gate_are_told_before_the_work(folders: list[Path], images: Path) -> None:
    told: list[Event] = []
    options = data.Options(data=DataChoice(str(images), None, False, 0), min_samples=100)
    data.match_data(StageContext(folders[2], folders[2], options=options, emit=told.append), SourceModel.of(folders[0]))
    assert "the gate will fail: 30 samples to evaluate on, gate.min_samples is 100" in _warnings(told)


def _warnings(told: list[Event]) -> list[str]:
    return [event.message for event in told if isinstance(event, Logged) and event.level is Level.WARNING]


def test_labels_that_the_model_knows_nothing_of_are_told_before_healing(folders: list[Path]) -> None:
    graph = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["": 20]>
        constant (float[batch, 1, 28, 28] pixel_values) => (float[batch, 10] logits)
        <int64[2] flat = {0, -1}, int64[1] first = {0}, int64[1] last = {10}, int64[1] axis = {1}>
        { rows = Reshape (pixel_values, flat)  logits = Slice (rows, first, last, axis) }""")
    onnx.save(graph, folders[1] / "model.onnx")
    options = answers.OriginalOptions(data=DataChoice("zoo:mnist-test", 200, False, 0), confidence=0.95)
    told: list[Event] = []
    context = StageContext(folders[2], folders[2], options=options, emit=told.append)
    answers.answer_original(context, SourceModel.of(folders[0]), OnnxModel.of(folders[1]))
    (warning,) = _warnings(told)
    assert warning.startswith("the gate will fail: right in 10.0 % of 200")


def test_an_empty_data_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty" in refused(tmp_path, "--model", "zoo:vit-mnist", "--data", str(tmp_path / "empty"))


def test_a_folder_model_without_data_says_how_to_give_some(tmp_path: Path, model: Path) -> None:
    assert "--data" in refused(tmp_path, "--model", str(model))


def test_a_corrupt_image_is_named_and_counted_and_skipped_only_when_asked(tmp_path: Path, images: Path) -> None:
    victim = sorted((images / "3").glob("*.png"))[0]
    victim.write_bytes(victim.read_bytes()[:40])
    few = ("--set", "gate.min_samples=10")
    error = refused(tmp_path, "--model", "zoo:vit-mnist", "--data", str(images), *few)
    assert victim.name in error and "1 of" in error
    settings = [*few[1:], "data.skip_corrupt=true", "calibrate.samples=8"]
    out = tmp_path / "skipped"
    with in_haste(tmp_path / "cache"):
        assert run.main("cpu", "zoo:vit-mnist", "identity", str(images), out, settings, max_drop=60) == 0


def test_an_unwritable_place_for_the_result_is_told_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = compress(tmp_path / "cache", *SMALL, "--out", str(tmp_path / "file" / "out"))
    assert "file" in one_line_error(done, 2)
    assert "started" not in done.stdout


def test_a_folder_of_the_users_own_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out" / "report").mkdir(parents=True)
    (tmp_path / "out" / "report" / "thesis.tex").write_text("years of work")
    error = refused(tmp_path, "--model", "zoo:vit-mnist")
    assert "report.json" in error and "give another --out" in error
    assert [path.name for path in (tmp_path / "out" / "report").iterdir()] == ["thesis.tex"]


def test_a_full_disk_ends_in_one_line_with_exit_code_three(tmp_path: Path) -> None:
    cache = tmp_path / "tiny"
    cache.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(cache)], check=False)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        done = compress(cache, *RUN, "--model", "zoo:vit-mnist", "--out", str(tmp_path / "out"))
        assert "no space left" in one_line_error(done, 3)
    finally:
        subprocess.run(["umount", str(cache)], check=True)


def test_a_precision_that_the_target_lacks_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, "--model", "zoo:vit-mnist", "--set", "precision.mode=fp16")
    assert "fp16" in error and "int8" in error


def test_nothing_is_left_in_the_users_folder_by_a_refused_run(tmp_path: Path) -> None:
    compress(tmp_path / "cache", "--target", "nothing", "--out", str(tmp_path / "out"), cwd=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_seed_that_no_generator_takes_is_refused(tmp_path: Path) -> None:
    assert "--seed" in refused(tmp_path, "--model", "zoo:vit-mnist", "--seed", "99999999999999999999")


def test_a_model_of_an_unknown_kind_is_told_before_its_data_are_looked_at(tmp_path: Path, model: Path) -> None:
    unknown = {"architectures": ["ReformerForMaskedLM"], "model_type": "reformer"}
    (model / "config.json").write_text(json.dumps(unknown))
    assert "unknown model_type 'reformer'" in refused(tmp_path, "--model", str(model), "--data", "nowhere")
    (model / "config.json").unlink()
    assert "config.json" in refused(tmp_path, "--model", str(model))


def test_data_of_another_kind_are_told_with_the_models_task(tmp_path: Path) -> None:
    assert "image-classification" in refused(tmp_path, "--model", "zoo:vit-mnist", "--data", "zoo:sst2")


def test_a_rewrite_that_the_model_refuses_is_told_before_the_original_is_exported(tmp_path: Path) -> None:
    done = compress(tmp_path / "cache", *SMALL, "--recipe", "hybrid", "--out", str(tmp_path / "out"))
    assert "hybrid is refused for a layer that looks ahead" in one_line_error(done, 2)
    assert "export: started" not in done.stdout
