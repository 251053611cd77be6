"""Depth estimation: what transformers computes, a gate that sees damage, a bundle that answers with maps."""

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
from compress.heal import HealOptions
from compress.heal.objective import DEPTH
from compress.model.heads.depth import DepthSpec
from compress.model.structure import Step, tapped_steps
from compress.tasks import read_checkpoint
from compress.verification.files import load as load_samples
from compress.verification.kinds.depths import DepthMaps
from compress.verification.metrics import METRICS
from compress.verification.outcome import Status
from targets.errors import InputError

COUNT = 60
_NECK = {"reassemble_factors": [4, 2, 1, 0.5], "neck_hidden_sizes": [4, 4, 6, 6], "fusion_hidden_size": 8}
_DINO = {"hidden_size": 12, "num_hidden_layers": 5, "num_attention_heads": 3, "mlp_ratio": 2, "image_size": 12}
_VIT = {"hidden_size": 12, "num_hidden_layers": 5, "num_attention_heads": 3, "intermediate_size": 20, "image_size": 12}


def dino(**changes: Any) -> transformers.Dinov2Config:
    options = {**_DINO, "patch_size": 4, "out_indices": [1, 2, 4, 5], "reshape_hidden_states": False, **changes}
    return transformers.Dinov2Config(**options)


def anything(place: Path, body: transformers.Dinov2Config | None = None, **changes: Any) -> Any:
    sizes = {"patch_size": 4, "reassemble_hidden_size": 12, "head_hidden_size": 4, **_NECK, **changes}
    config = transformers.DepthAnythingConfig(backbone_config=body or dino(), **sizes)
    return saved(transformers.DepthAnythingForDepthEstimation(config), place)


def dpt(place: Path, **changes: Any) -> Any:
    sizes = {**_VIT, "patch_size": 4, "backbone_out_indices": [0, 1, 3, 4], **_NECK, "fusion_hidden_size": 8, **changes}
    return saved(transformers.DPTForDepthEstimation(transformers.DPTConfig(is_hybrid=False, **sizes)), place)


def saved(model: Any, place: Path) -> Any:
    """With weights at which every part matters."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, one in [*model.named_parameters(), *model.named_buffers()]:
            if not one.is_floating_point():
                continue
            noise = torch.randn(one.shape, generator=generator)
            if "running_var" in name or ("norm" in name and name.endswith("weight")):
                one.copy_(1 + 0.3 * noise.clamp(-2, 2))
            elif one.ndim == 1:
                one.copy_(0.2 * noise)
            else:
                one.copy_(noise / max(1, one[0].numel()) ** 0.5)
        names = [name for name, _ in model.named_parameters() if name.startswith("head.")]
        model.get_parameter(names[-1]).fill_(1.0)
    model.save_pretrained(place)
    settings = {"image_processor_type": "DPTImageProcessor", "size": {"height": 12, "width": 12}, "resample": 3}
    (place / "preprocessor_config.json").write_text(json.dumps(settings))
    return model.eval()


@torch.no_grad()
def check(place: Path, original: Any, size: tuple[int, int]) -> None:
    notes = list[str]()
    model = read_checkpoint(place, {"size": list(size)}, notes.append)
    x_BCYX = torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(1))
    wanted = original(x_BCYX).predicted_depth
    assert wanted.std() > 0.01 and notes == []
    torch.testing.assert_close(model({"pixel_values": x_BCYX}), wanted, atol=1e-4, rtol=0)


# What is read


@pytest.mark.parametrize(
    ("body", "changes", "size"),
    [
        ({}, {}, (12, 12)),
        ({"apply_layernorm": False}, {"depth_estimation_type": "metric", "max_depth": 20}, (12, 20)),
        ({"use_swiglu_ffn": True}, {"max_depth": 7}, (20, 8)),
        ({"out_indices": [-4, -3, -2, -1]}, {}, (12, 12)),
    ],
)
def test_depth_anything_gives_the_maps_of_transformers(
    tmp_path: Path, body: dict[str, Any], changes: dict[str, Any], size: tuple[int, int]
) -> None:
    check(tmp_path, anything(tmp_path, dino(**body), **changes), size)


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, (12, 12)),
        ({"readout_type": "add"}, (12, 12)),
        ({"readout_type": "ignore", "use_batch_norm_in_fusion_residual": True}, (20, 20)),
        ({"use_bias_in_fusion_residual": False}, (12, 12)),
        ({"add_projection": True, "fusion_hidden_size": 256}, (12, 12)),
        ({"backbone_config": dino()}, (12, 12)),
    ],
)
def test_dpt_gives_the_maps_of_transformers(tmp_path: Path, changes: dict[str, Any], size: tuple[int, int]) -> None:
    check(tmp_path, dpt(tmp_path, **changes), size)


def test_a_config_of_the_hub_may_leave_out_what_transformers_knows(tmp_path: Path) -> None:
    original, path = anything(tmp_path), tmp_path / "config.json"
    config = json.loads(path.read_text())
    kept = ("hidden_size", "num_hidden_layers", "num_attention_heads", "mlp_ratio", "image_size", "patch_size")
    body = {key: config["backbone_config"][key] for key in kept}
    body["out_features"] = ["stage1", "stage2", "stage4", "stage5"]
    path.write_text(json.dumps(config | {"backbone_config": body}))
    check(tmp_path, original, (12, 12))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"architectures": ["DPTModel"]}, "of DPT only DPTForDepthEstimation and DPTForSemanticSegmentation are read"),
        ({"is_hybrid": True}, "a DPT on a convolutional body is not supported"),
        ({"readout_type": "first"}, "readout_type is 'first'; allowed: ignore, add, project"),
        ({"backbone_config": {"model_type": "beit"}}, "a backbone of 'beit' is not supported; allowed: dinov2"),
        ({"backbone_out_indices": [0, 1, 3]}, r"the neck reads 4 layers of 1 to 5 in order, but .* name \[1, 2, 4\]"),
        ({"backbone_out_indices": [0, 1, 3, 7]}, "the neck reads 4 layers of 1 to 5"),
        ({"reassemble_factors": [4, 2, 1, 0.3]}, "a reassemble factor of 0.3 is not supported"),
        ({"head_in_index": 0}, "head_in_index is not the last"),
    ],
)
def test_another_dpt_is_refused_with_the_reason(tmp_path: Path, changes: dict[str, Any], fault: str) -> None:
    dpt(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match=fault):
        read_checkpoint(tmp_path, {"size": [12, 12]})


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"architectures": ["DepthAnythingModel"]}, "of DepthAnything only DepthAnythingForDepthEstimation is read"),
        ({"patch_size": 14}, "patch_size is not the backbone's, 4"),
        ({"depth_estimation_type": "odd"}, "depth_estimation_type is 'odd'; allowed: relative, metric"),
        ({"backbone_config": None, "backbone": "facebook/dinov2-small"}, "config.json has no backbone_config"),
    ],
)
def test_another_depth_anything_is_refused_with_the_reason(tmp_path: Path, changes: dict[str, Any], fault: str) -> None:
    anything(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match=fault):
        read_checkpoint(tmp_path, {"size": [12, 12]})


def test_a_processor_that_keeps_shapes_gets_the_size_of_a_square_image(tmp_path: Path) -> None:
    anything(tmp_path)
    given = {"image_processor_type": "DPTImageProcessor", "size": 13, "keep_aspect_ratio": True}
    path, notes = tmp_path / "preprocessor_config.json", list[str]()
    path.write_text(json.dumps(given | {"ensure_multiple_of": 4}))
    section = tasks.get("depth-estimation").preprocessing(tmp_path, notes.append)
    assert section["resize"] == {"mode": "exact", "size": [12, 12], "resample": "bicubic"}
    assert section["mean"] == [0.5] * 3 and ["12 x 12, whatever their shape" in note for note in notes] == [True]
    path.write_text(json.dumps(given | {"ensure_multiple_of": 0}))
    with pytest.raises(InputError, match="ensure_multiple_of is 0; allowed: a number of pixels"):
        tasks.get("depth-estimation").preprocessing(tmp_path, notes.append)


# What rewrites may do


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("depth")
    anything(place)
    return place


def test_exact_rewrites_keep_the_maps(folder: Path, tmp_path: Path) -> None:
    dpt(tmp_path)
    for place in (folder, tmp_path):
        model = read_checkpoint(place, {"size": [12, 12]})
        for use in ("fold-norm", "drop-key-bias", "fold-value-bias", "merge-qk"):
            assert moved(model, rewritten(model, use)) <= 1e-4


def test_a_tap_on_a_dropped_layer_takes_the_one_before_it(folder: Path) -> None:
    model = read_checkpoint(folder, {"size": [12, 12]})
    structure = model.structure
    assert isinstance(structure.head, DepthSpec) and structure.head.taps == (0, 1, 3, 4)
    assert tapped_steps(structure) == [1, 2, 4, 5]
    schedule = tuple(Step(block=place, origin=origin) for place, origin in enumerate((2, 4)))
    shorter = structure.replace(blocks=structure.blocks[:2], schedule=schedule)
    assert tapped_steps(shorter) == [0, 0, 1, 2]


@pytest.mark.parametrize(
    ("use", "options"), [("pool-tokens", {"after": 1}), ("slice-width", {"width": 8}), ("trim-last-block", {})]
)
def test_no_rewrite_takes_what_the_head_reads(folder: Path, use: str, options: dict[str, Any]) -> None:
    model = read_checkpoint(folder, {"size": [12, 12]})
    with pytest.raises(InputError, match=f"{use} is refused.*head"):
        rewritten(model, use, **options)


def test_healing_counts_in_shares_of_the_maps_variance() -> None:
    options = HealOptions(kl=1.0, task=0.0)
    wanted = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    flat = wanted.mean(dim=(1, 2), keepdim=True).expand_as(wanted)
    assert DEPTH.drift(wanted, wanted, {}) == 0
    for unit in (1.0, 80.0):
        assert float(DEPTH.loss(options, unit * flat, unit * wanted, {}, None)) == pytest.approx(1.0, rel=1e-4)
    with pytest.raises(InputError, match=r"heal\.task trains on labels, which say nothing of depth"):
        DEPTH.loss(HealOptions(task=1.0), flat, wanted, {}, None)


# What is counted


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 9999), scale=st.floats(0.1, 50), shift=st.floats(-5, 5))
def test_a_map_counts_by_its_form_not_by_its_unit(seed: int, scale: float, shift: float) -> None:
    wanted = np.random.default_rng(seed).uniform(1, 9, (4, 30)).astype(np.float32)
    one = DepthMaps(scale * wanted + shift, wanted)
    assert METRICS["depth_delta1"].value(one) == 100
    assert METRICS["depth_absrel"].value(one) == pytest.approx(0, abs=1e-2)


def test_pixels_count_one_by_one_after_the_best_scale_and_shift() -> None:
    draw = np.random.default_rng(0)
    wanted, depths = (draw.uniform(0, 9, (5, 40)).astype(np.float32) for _ in range(2))
    within, errors = [], []
    for row, true in zip(depths.astype(float), wanted.astype(float), strict=True):
        (scale, shift), *_ = np.linalg.lstsq(np.column_stack([row, np.ones(40)]), true, rcond=None)
        for one, other in zip(scale * row + shift, true, strict=True):
            found, real = (max(number, 0.01 * true.max()) for number in (one, other))
            within.append(max(found / real, real / found) < 1.25)
            errors.append(abs(found - real) / real)
    p = DepthMaps(depths, wanted)
    assert METRICS["depth_delta1"].value(p) == pytest.approx(100 * np.mean(within))
    assert METRICS["depth_absrel"].value(p) == pytest.approx(100 * np.mean(errors), rel=1e-6)


def test_the_originals_maps_are_the_truth_where_none_is_known(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    was, now = (DepthMaps(draw.uniform(1, 9, (6, 20)), np.zeros((6, 20))) for _ in range(2))
    with pytest.raises(InputError, match="the original's depth is not known, or 0 everywhere"):
        METRICS["depth_delta1"].value(now)
    assert METRICS["depth_delta1"].value(was.beside(was)) == 100
    judged = now.beside(was)
    assert np.array_equal(judged.wanted, was.depths) and judged.beside(now) is judged
    assert METRICS["depth_delta1"].value(judged) < 100 and was.agree(was).all() and not was.agree(now).any()
    assert [one.measure for one in was.most_changed(now)] == ["% relative difference"] * 6
    judged.save(tmp_path / "maps.npz")
    back = load_samples(tmp_path / "maps.npz")
    assert isinstance(back, DepthMaps) and np.array_equal(back.depths, now.depths)
    assert np.array_equal(judged.restored(judged.compact().tobytes()).depths, now.depths)
    assert "all flat" in str(DepthMaps(np.ones((3, 4)), np.ones((3, 4))).knows_nothing(0.95))
    with pytest.raises(InputError, match="give one for each pixel"):
        DepthMaps(now.depths, now.depths[:, :3])


# From the data to the device


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place, draw = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(COUNT):
        path = place / ("indoors", "outdoors")[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (12, 16, 3), np.uint8)).save(path)
    return place


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An estimator that is exported fast."""
    place, body = tmp_path_factory.mktemp("small"), dino(num_hidden_layers=2, out_indices=[1, 2])
    anything(place, body, neck_hidden_sizes=[4, 6], reassemble_factors=[2, 0.5])
    return place


def test_a_damaged_estimator_does_not_pass_and_one_hardly_changed_does(
    folder: Path, data: Path, tmp_path: Path
) -> None:
    judged = partial(judged_when_hurt, folder, data, tmp_path, task="depth-estimation", metric="depth_delta1")
    assert judged(size=1e-6) == (Status.PASS, 100, 100)
    verdict, reference, share = judged(size=1.0)
    assert verdict is Status.FAIL and reference == 100 and share < 80


def test_a_run_ships_a_bundle_that_answers_with_maps(small: Path, data: Path, tmp_path: Path) -> None:
    bundle = shipped(small, data, tmp_path, "gate.min_samples=10")
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert [(one["name"], one["shape"]) for one in manifest["outputs"]] == [("predicted_depth", ["batch", 12, 12])]
    questions = questions_about(small, data)
    found = questions.answers(questions.sides[0])
    assert isinstance(found, DepthMaps)
    pictures = sorted(data.rglob("*.png"))[::20]
    for picture, result in zip(pictures, asked(bundle, *map(str, pictures)), strict=True):
        index = list(questions.names).index(picture.relative_to(data).as_posix())
        np.testing.assert_allclose(np.ravel(result["depth"]), found.depths[index], atol=1e-4)
        assert (result["height"], result["width"]) == (12, 12)
        assert [result["least"], result["most"]] == [np.min(result["depth"]), np.max(result["depth"])]


def test_answers_of_another_shape_are_refused(folder: Path, data: Path) -> None:
    questions = questions_about(folder, data)
    task, prepared = tasks.get("depth-estimation"), questions.prepared(questions.sides[0])
    with pytest.raises(InputError, match=r"outputs of shape \[60, 4\]; maps \[batch, height, width\] are needed"):
        task.answers(lambda inputs: {"predicted_depth": np.zeros((60, 4), np.float32)}, prepared, print)
