"""Semantic segmentation: what transformers computes, a gate that sees damage, a bundle that answers with maps."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from support.damage import hurt_tensors, judged_when_hurt, questions_about
from support.jobs import asked, shipped
from support.rewriting import moved, rewritten

from compress import tasks
from compress.data import load
from compress.data.annotated.masks import Masks, mask_files
from compress.heal import HealOptions
from compress.heal.objective import PIXELS
from compress.model.heads.segmentation import SegmentationSpec
from compress.tasks import read_checkpoint
from compress.verification.files import load as load_samples
from compress.verification.kinds.pixels import PixelClasses
from compress.verification.localize import step_rows
from compress.verification.metrics import METRICS
from compress.verification.outcome import Status
from compress.verify import Options, evaluate
from targets.errors import InputError

COUNT, LABELS = 60, ("road", "sky", "tree", "wall")
_SIZES = {"hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 20}
_NECK = {"reassemble_factors": [2, 0.5], "neck_hidden_sizes": [4, 6], "fusion_hidden_size": 8}


def dpt(place: Path, **changes: Any) -> Any:
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {name: at for at, name in enumerate(LABELS)}}
    options = {**_SIZES, **_NECK, **names, "image_size": 12, "patch_size": 4, "backbone_out_indices": [0, 2], **changes}
    model = transformers.DPTForSemanticSegmentation(transformers.DPTConfig(is_hybrid=False, **options))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, one in [*model.named_parameters(), *model.named_buffers()]:
            if not one.is_floating_point():
                continue
            noise = torch.randn(one.shape, generator=generator)
            gain = one.ndim == 1 and name.endswith("weight")
            if gain or "running_var" in name:
                one.copy_(1 + 0.3 * noise.clamp(-2, 2))
            else:
                one.copy_(0.3 * noise if one.ndim == 1 else noise / max(1, one[0].numel()) ** 0.5)
    model.save_pretrained(place)
    settings = {"image_processor_type": "DPTImageProcessor", "size": {"height": 12, "width": 12}, "resample": 3}
    (place / "preprocessor_config.json").write_text(json.dumps(settings))
    return model.eval()


# What is read


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"readout_type": "add", "use_auxiliary_head": False},
        {"readout_type": "ignore", "use_batch_norm_in_fusion_residual": True},
    ],
)
@torch.no_grad()
def test_dpt_gives_the_maps_of_transformers(tmp_path: Path, changes: dict[str, Any]) -> None:
    original, notes = dpt(tmp_path, **changes), list[str]()
    model = read_checkpoint(tmp_path, {"size": [12, 12]}, notes.append)
    x_BCYX = torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    wanted = original(x_BCYX).logits
    assert wanted.std() > 0.01 and model.structure.labels == LABELS
    left = "not read, since semantic-segmentation does not use it: auxiliary_head.head.0.weight"
    assert [note.startswith(left) for note in notes] == [True] * changes.get("use_auxiliary_head", True)
    torch.testing.assert_close(model({"pixel_values": x_BCYX}), wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"architectures": ["DPTModel"]}, "of DPT only DPTForDepthEstimation and DPTForSemanticSegmentation are read"),
        ({"architectures": ["DPTForDepthEstimation"]}, "the weights lack 'head.head.0.bias'"),
        ({"id2label": {"0": "road"}}, "id2label names 0, but the weights have 4 classes"),
        ({"is_hybrid": True}, "a DPT on a convolutional body is not supported"),
    ],
)
def test_another_dpt_is_refused_with_the_reason(tmp_path: Path, changes: dict[str, Any], fault: str) -> None:
    dpt(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match=fault):
        read_checkpoint(tmp_path, {"size": [12, 12]})


# What rewrites may do


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("dpt")
    dpt(place)
    return place


def test_exact_rewrites_keep_the_maps(folder: Path) -> None:
    model = read_checkpoint(folder, {"size": [12, 12]})
    assert isinstance(model.structure.head, SegmentationSpec)
    for use in ("fold-norm", "drop-key-bias", "fold-value-bias", "merge-qk"):
        assert moved(model, rewritten(model, use)) <= 1e-4
    with pytest.raises(InputError, match=r"pool-tokens is refused.*head"):
        rewritten(model, "pool-tokens", after=1)


def test_healing_counts_every_pixel_alike() -> None:
    wanted, given = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    p, q = (one.double().softmax(dim=1).numpy() for one in (wanted, given))
    drift = (p * np.log(p / q)).sum(axis=1).mean()
    assert float(PIXELS.drift(given, wanted, {})) == pytest.approx(drift, rel=1e-5)
    assert PIXELS.drift(wanted, wanted, {}) == pytest.approx(0, abs=1e-6)
    with pytest.raises(InputError, match=r"heal\.task trains on labels, which say nothing of single pixels"):
        PIXELS.loss(HealOptions(task=1.0), given, wanted, {}, None)


# What is counted


def test_the_mean_overlap_is_that_of_all_pixels_of_each_class() -> None:
    draw = np.random.default_rng(0)
    found, wanted = draw.integers(0, 4, (9, 50)), draw.integers(-1, 3, (9, 50))
    overlaps = []
    for number in range(5):  # nobody marked or found the last one
        one, other = (found == number)[wanted >= 0], (wanted == number)[wanted >= 0]
        if (one | other).any():
            overlaps.append((one & other).sum() / (one | other).sum())
    assert len(overlaps) == 4
    p = PixelClasses(found, wanted, [*LABELS, "sea"])
    assert METRICS["miou"].value(p) == pytest.approx(100 * np.mean(overlaps))
    other = PixelClasses(np.roll(found, 1, axis=1), wanted, [*LABELS, "sea"])
    assert METRICS["pixel_agreement"].value(p, other) == pytest.approx(100 * (found == other.found).mean())


def test_the_originals_classes_are_the_truth_where_nothing_is_marked(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    was, now = (PixelClasses(draw.integers(0, 4, (6, 20)), np.full((6, 20), -1), list(LABELS)) for _ in range(2))
    with pytest.raises(InputError, match="no pixel is marked, and the original's classes are not known"):
        METRICS["miou"].value(now)
    assert METRICS["miou"].value(was.beside(was)) == 100
    judged = now.beside(was)
    assert np.array_equal(judged.wanted, was.found) and judged.beside(now) is judged
    assert METRICS["miou"].value(judged) < 100 and was.agree(was).all() and not was.agree(now).any()
    assert [one.measure for one in was.most_changed(now)] == ["% of the pixels"] * 6
    judged.save(tmp_path / "maps.npz")
    back = load_samples(tmp_path / "maps.npz")
    assert isinstance(back, PixelClasses) and np.array_equal(back.found, now.found) and back.names == list(LABELS)
    assert np.array_equal(judged.restored(judged.compact().tobytes()).found, now.found)
    assert "for one class" in str(PixelClasses(np.ones((3, 4), int), np.ones((3, 4), int)).knows_nothing(0.95))
    with pytest.raises(InputError, match="give one for each pixel"):
        PixelClasses(now.found, now.found[:, :3])


def test_a_step_of_a_run_is_held_against_the_originals_classes_where_nothing_is_marked() -> None:
    draw = np.random.default_rng(1)
    was, now = (PixelClasses(draw.integers(0, 4, (60, 23)), np.full((60, 23), -1)) for _ in range(2))
    (row,) = step_rows(was, {"heal": now}, "miou", "max_drop", 1.0, {})
    share = f"{100 * (was.found == now.found).mean():.3g}"
    assert row.status.startswith("first") and row.note == f"Pixels of the same class as the reference's {share} %"


# From the data to the device


def picture(place: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(place).integers(0, 256, (12, 16, 3), np.uint8))


@pytest.fixture(scope="module")
def data(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, and masks of what the model sees in nine of ten pixels."""
    place = tmp_path_factory.mktemp("scenes")
    (place / "images").mkdir()
    for number in range(COUNT):
        picture(number).save(place / "images" / f"{number}.png")
    model, draw = read_checkpoint(folder, {"size": [12, 12]}), np.random.default_rng(0)
    section = tasks.get("semantic-segmentation").preprocessing(folder, print)
    (place / "all" / "class").mkdir(parents=True)
    (place / "masks").mkdir()
    for path in sorted((place / "images").iterdir()):
        picture(int(path.stem)).save(place / "all" / "class" / path.name)
    plain = load(str(place / "all"))
    for values, _ in plain.batches(section, batch_size=COUNT):
        with torch.no_grad():
            maps = model({"pixel_values": torch.from_numpy(values)}).argmax(dim=1).numpy().astype(np.uint8)
    for name, map_YX in zip(plain.names, maps, strict=True):
        odd = draw.random(map_YX.shape) < 0.1
        Image.fromarray(np.where(odd, 255, map_YX)).save(place / "masks" / Path(name).name)
    return place


def test_images_and_masks_are_found_in_the_folders_that_people_have(tmp_path: Path) -> None:
    for part in ("training", "validation"):
        for kind in ("images", "annotations"):
            (tmp_path / kind / part).mkdir(parents=True)
        for place in range(3):
            picture(place + 10 * len(part)).save(tmp_path / "images" / part / f"{place}.jpg")
            Image.fromarray(np.full((12, 16), place, np.uint8)).save(tmp_path / "annotations" / part / f"{place}.png")
    picture(9).save(tmp_path / "images" / "training" / "bare.jpg")
    assert len(mask_files(tmp_path)) == 6 and mask_files(tmp_path / "images") == []
    evaluation, healing = (load(str(tmp_path), part=part, masks=True) for part in ("evaluation", "healing"))
    assert {name.split("/")[1] for name in evaluation.names} == {"validation"} and len(healing) == 3
    assert [int(evaluation.mask(place).max()) for place in range(3)] == [0, 1, 2]  # type: ignore[union-attr]
    assert evaluation.notes[0] == "images without a mask, left out: bare.jpg"


def test_masks_of_a_palette_are_its_numbers_and_colours_are_refused(tmp_path: Path) -> None:
    numbers = np.array([[0, 3], [2, 1]], np.uint8)
    image = Image.fromarray(numbers).convert("P")
    image.putpalette([9, 9, 9] * 256)
    image.save(tmp_path / "a.png")
    Image.fromarray(np.stack([numbers] * 3, axis=-1)).save(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(b"\x89PNG")
    masks = Masks([tmp_path / f"{name}.png" for name in "abc"])
    assert np.array_equal(masks[0], numbers)
    with pytest.raises(InputError, match=r"b.png has colours \(RGB\); save masks as class numbers"):
        masks[1]
    with pytest.raises(InputError, match=r"c\.png is not a readable mask"):
        masks[2]


def test_a_damaged_model_does_not_pass_and_one_hardly_changed_does(folder: Path, data: Path, tmp_path: Path) -> None:
    judged = partial(judged_when_hurt, folder, data, tmp_path, task="semantic-segmentation", metric="miou")
    verdict, reference, candidate = judged(size=1e-6)
    assert verdict is Status.PASS and min(reference, candidate) > 99.9  # unmarked pixels do not count; one may be a tie
    verdict, _, candidate = judged(size=1.0)
    assert verdict is Status.FAIL and candidate < 80


def test_images_without_masks_are_judged_by_the_originals_classes(folder: Path, data: Path, tmp_path: Path) -> None:
    side = hurt_tensors(folder, tmp_path / "side", 0.05, lambda name: ".layer." in name)
    done = evaluate(Options(str(folder), str(side), str(data / "all"), part="all", max_drop=90.0)).report
    main = done.drift.metric("miou") if done.drift else None
    assert main is not None and main.reference == 100 and main.candidate is not None and 10 < main.candidate < 100
    assert any("the data have no masks" in note for note in done.notes)


def test_a_run_ships_a_bundle_that_answers_with_maps(folder: Path, data: Path, tmp_path: Path) -> None:
    bundle = shipped(folder, data, tmp_path, "gate.min_samples=10", max_drop=30.0)
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert [(one["name"], one["shape"]) for one in manifest["outputs"]] == [("logits", ["batch", 4, 16, 16])]
    questions = questions_about(folder, data)
    found = questions.answers(questions.sides[0])
    assert isinstance(found, PixelClasses) and tuple(found.names or ()) == LABELS
    pictures = sorted((data / "images").iterdir())[::15]
    for path, result in zip(pictures, asked(bundle, *map(str, pictures)), strict=True):
        index = list(questions.names).index(path.relative_to(data).as_posix())
        assert (np.ravel(result["map"]) == found.found[index]).mean() > 0.99
        assert (result["height"], result["width"]) == (16, 16)
        assert sum(one["share"] for one in result["classes"]) == pytest.approx(1)
        first = result["classes"][0]
        assert first["label"] == LABELS[first["index"]]
        assert first["share"] == pytest.approx((np.ravel(result["map"]) == first["index"]).mean())


def test_answers_of_another_shape_are_refused(folder: Path, data: Path) -> None:
    questions = questions_about(folder, data)
    task, prepared = tasks.get("semantic-segmentation"), questions.prepared(questions.sides[0])
    with pytest.raises(InputError, match=r"of shape \[60, 3, 2, 2\]; maps \[batch, 4 classes, height, width\] are"):
        task.answers(lambda inputs: {"logits": np.zeros((60, 3, 2, 2), np.float32)}, prepared, print)
