"""Pose estimation: what transformers computes, a gate that sees damage, a bundle that answers with keypoints."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.damage import judged_when_hurt, questions_about
from support.jobs import asked, shipped
from support.rewriting import moved, rewritten

from compress import tasks
from compress.heal.objective import KEYPOINTS
from compress.tasks import read_checkpoint
from compress.verification.files import load as load_samples
from compress.verification.kinds.keypoints import FoundKeypoints
from compress.verification.metrics import METRICS
from compress.verification.outcome import Status
from runtime.images.keypoints import peaks
from targets.errors import InputError

COUNT, LABELS = 60, ("nose", "left eye", "right eye")
_SIZES = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "mlp_ratio": 2}


def body(**changes: Any) -> transformers.VitPoseBackboneConfig:
    options = {**_SIZES, "image_size": [32, 24], "patch_size": [8, 8], "num_experts": 1, "out_indices": [2], **changes}
    return transformers.VitPoseBackboneConfig(**options)


def vitpose(place: Path, backbone: transformers.VitPoseBackboneConfig | None = None, **changes: Any) -> Any:
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {name: at for at, name in enumerate(LABELS)}}
    config = transformers.VitPoseConfig(backbone_config=backbone or body(), **names, **changes)
    model, generator = transformers.VitPoseForPoseEstimation(config), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, one in [*model.named_parameters(), *model.named_buffers()]:
            if not one.is_floating_point():
                continue
            noise = torch.randn(one.shape, generator=generator)
            if "running_var" in name or ("norm" in name and name.endswith("weight")):
                one.copy_(1 + 0.3 * noise.clamp(-2, 2))
            else:
                one.copy_(0.2 * noise if one.ndim == 1 else noise / max(1, one[0].numel()) ** 0.5)
    model.save_pretrained(place)
    size = dict(zip(("height", "width"), config.backbone_config.image_size, strict=True))
    settings = {"image_processor_type": "VitPoseImageProcessor", "size": size, "do_affine_transform": True}
    (place / "preprocessor_config.json").write_text(json.dumps(settings))
    return model.eval()


# What is read


@pytest.mark.parametrize(
    ("backbone", "changes"),
    [
        ({}, {}),
        ({"qkv_bias": False, "hidden_act": "relu"}, {"scale_factor": 2}),
        ({"patch_size": [16, 8]}, {"use_simple_decoder": False}),
    ],
)
@torch.no_grad()
def test_vitpose_gives_the_maps_of_transformers(
    tmp_path: Path, backbone: dict[str, Any], changes: dict[str, Any]
) -> None:
    original, notes = vitpose(tmp_path, body(**backbone), **changes), list[str]()
    model = read_checkpoint(tmp_path, {"size": [32, 24]}, notes.append)
    x_BCYX = torch.randn(3, 3, 32, 24, generator=torch.Generator().manual_seed(1))
    wanted = original(x_BCYX).heatmaps
    assert wanted.std() > 0.01 and notes == [] and model.structure.labels == LABELS
    torch.testing.assert_close(model({"pixel_values": x_BCYX}), wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("backbone", "changes", "fault"),
    [
        ({}, {"architectures": ["VitPoseModel"]}, "of ViTPose only VitPoseForPoseEstimation is read"),
        ({"num_experts": 6}, {}, r"a ViTPose\+ with experts for several data sets is not supported"),
        ({"out_indices": [1], "out_features": None}, {}, r"out_indices \[1\] are not supported; allowed: the last"),
        ({"image_size": [32, 32]}, {}, r"prepared as \(32, 24\), but config.json has \(32, 32\)"),
        ({"model_type": "vit"}, {}, "a backbone of 'vit' is not supported; allowed: vitpose_backbone"),
        ({"num_hidden_layers": 1, "out_indices": [1], "out_features": None}, {}, "a layer that config.json leaves"),
    ],
)
def test_another_vitpose_is_refused_with_the_reason(
    tmp_path: Path, backbone: dict[str, Any], changes: dict[str, Any], fault: str
) -> None:
    vitpose(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text()) | changes
    config["backbone_config"] |= backbone
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match=fault):
        read_checkpoint(tmp_path, {"size": [32, 24]})


def test_images_are_taken_for_cuts_of_one_person(tmp_path: Path) -> None:
    vitpose(tmp_path)
    notes = list[str]()
    section = tasks.get("pose-estimation").preprocessing(tmp_path, notes.append)
    assert section["resize"] == {"mode": "exact", "size": [32, 24], "resample": "bilinear"}
    assert ["taken for one person or thing and resized to 32 x 24" in note for note in notes] == [True]


# What rewrites may do


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("vitpose")
    vitpose(place)
    return place


def test_exact_rewrites_keep_the_maps(folder: Path) -> None:
    model = read_checkpoint(folder, {"size": [32, 24]})
    for use in ("fold-norm", "drop-key-bias", "fold-value-bias", "merge-qk"):
        assert moved(model, rewritten(model, use)) <= 1e-4
    with pytest.raises(InputError, match=r"trim-last-block is refused.*head"):
        rewritten(model, "trim-last-block")


def test_healing_counts_in_shares_of_each_maps_variance() -> None:
    wanted = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    flat = wanted.mean(dim=(2, 3), keepdim=True).expand_as(wanted)
    assert KEYPOINTS.drift(wanted, wanted, {}) == 0
    assert float(KEYPOINTS.drift(flat, wanted, {})) == pytest.approx(1.0, rel=1e-4)


# What is counted


@settings(max_examples=50, deadline=None)
@given(x=st.integers(0, 11), y=st.integers(0, 15), seed=st.integers(0, 99))
def test_a_peak_is_found_within_a_quarter_of_a_cell(x: int, y: int, seed: int) -> None:
    maps = np.random.default_rng(seed).uniform(0, 0.5, (2, 3, 16, 12)).astype(np.float32)
    maps[1, 2, y, x] = 0.9
    points, scores = peaks(maps)
    assert points.shape == (2, 3, 2) and scores[1, 2] == np.float32(0.9)
    left, top = points[1, 2] * [11, 15]
    assert abs(left - x) <= 0.2501 and abs(top - y) <= 0.2501 and 0 <= points.min() <= points.max() <= 1


def test_a_peak_leans_to_its_higher_neighbour() -> None:
    maps = np.zeros((1, 1, 5, 5), np.float32)
    maps[0, 0, 2, 1:4], maps[0, 0, 1, 2] = (0.2, 1, 0.1), 0.4
    points, _ = peaks(maps)
    np.testing.assert_allclose(points[0, 0], [1.75 / 4, 1.75 / 4])


def random(seed: int, shape: tuple[int, int] = (7, 5)) -> FoundKeypoints:
    draw = np.random.default_rng(seed)
    return FoundKeypoints(draw.random((*shape, 2)), draw.random(shape), np.zeros((*shape, 2)), np.zeros(shape))


def test_keypoints_count_as_much_as_the_original_is_sure_of_them(tmp_path: Path) -> None:
    was, now = random(0), random(1)
    with pytest.raises(InputError, match="the original's keypoints are not known"):
        METRICS["pck"].value(now)
    near = FoundKeypoints(was.points + 0.03, now.scores, now.wanted, now.weights).beside(was)
    assert METRICS["pck"].value(near) == 100
    assert METRICS["keypoint_error"].value(near) == pytest.approx(3, rel=1e-3)
    judged = now.beside(was)
    apart = np.abs(now.points - was.points).max(axis=-1)
    wanted = 100 * np.average(apart <= 0.05, weights=was.scores)
    assert METRICS["pck"].value(judged) == pytest.approx(wanted)
    assert METRICS["keypoint_error"].value(judged) == pytest.approx(100 * np.average(apart, weights=was.scores))
    assert judged.beside(now) is judged and was.agree(was).all() and not was.agree(now).any()
    assert [one.measure for one in was.most_changed(now)] == ["% of the image"] * 7
    judged.save(tmp_path / "keypoints.npz")
    back = load_samples(tmp_path / "keypoints.npz")
    assert isinstance(back, FoundKeypoints) and np.array_equal(back.points, now.points)
    assert np.array_equal(judged.restored(judged.compact().tobytes()).points, now.points)
    still = FoundKeypoints(np.ones((3, 2, 2)), np.ones((3, 2)), np.ones((3, 2, 2)), np.ones((3, 2)))
    assert "at the same places" in str(still.knows_nothing(0.95))
    with pytest.raises(InputError, match="give two numbers for each"):
        FoundKeypoints(was.points, was.scores[:, :2], was.wanted, was.weights)


# From the data to the device


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place, draw = tmp_path_factory.mktemp("people"), np.random.default_rng(0)
    for number in range(COUNT):
        path = place / ("standing", "sitting")[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (36, 20, 3), np.uint8)).save(path)
    return place


def test_a_damaged_estimator_does_not_pass_and_one_hardly_changed_does(
    folder: Path, data: Path, tmp_path: Path
) -> None:
    judged = partial(judged_when_hurt, folder, data, tmp_path, task="pose-estimation", metric="pck")
    assert judged(size=1e-6) == (Status.PASS, 100, 100)
    verdict, reference, share = judged(size=1.0)
    assert verdict is Status.FAIL and reference == 100 and share < 80


def test_a_run_ships_a_bundle_that_answers_with_keypoints(folder: Path, data: Path, tmp_path: Path) -> None:
    bundle = shipped(folder, data, tmp_path, "gate.min_samples=10")
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert [(one["name"], one["shape"]) for one in manifest["outputs"]] == [("heatmaps", ["batch", 3, 16, 12])]
    questions = questions_about(folder, data)
    found = questions.answers(questions.sides[0])
    assert isinstance(found, FoundKeypoints)
    pictures = sorted(data.rglob("*.png"))[::15]
    for path, result in zip(pictures, asked(bundle, *map(str, pictures)), strict=True):
        index = list(questions.names).index(path.relative_to(data).as_posix())
        assert tuple(one["label"] for one in result["keypoints"]) == LABELS
        places = [one["place"] for one in result["keypoints"]]
        np.testing.assert_allclose(places, found.points[index], atol=1e-5)
        scores = [one["score"] for one in result["keypoints"]]
        np.testing.assert_allclose(scores, found.scores[index], atol=1e-4)


def test_answers_of_another_shape_are_refused(folder: Path, data: Path) -> None:
    questions = questions_about(folder, data)
    task, prepared = tasks.get("pose-estimation"), questions.prepared(questions.sides[0])
    with pytest.raises(InputError, match=r"outputs of shape \[60, 4\]; maps \[batch, keypoints, height, width\]"):
        task.answers(lambda inputs: {"heatmaps": np.zeros((60, 4), np.float32)}, prepared, print)
