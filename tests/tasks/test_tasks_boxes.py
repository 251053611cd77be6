"""Object detection from a COCO file to the device: precision as COCO counts it, a gate that sees damage, a bundle that
answers with boxes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.damage import hurt_tensors, questions_about
from support.jobs import asked, shipped
from support.rewriting import moved, rewritten

from compress import tasks
from compress.data import load
from compress.tasks import read_checkpoint
from compress.verification.files import load as load_samples
from compress.verification.kinds.boxes import OVERLAPS, FoundBoxes, overlap
from compress.verification.metrics import METRICS
from compress.verification.outcome import Status
from compress.verify import Options, evaluate
from targets.errors import InputError

NAMES, COUNT, SIZE = ("bolt", "nut", "gear"), 90, (8, 12)


# What is counted


def drawn(seed: int, images: int = 6, queries: int = 7, classes: int = 2) -> FoundBoxes:
    """Random boxes, half of them near true ones."""
    draw = np.random.default_rng(seed)
    gold = np.concatenate([draw.integers(-1, classes, (images, 4, 1)), draw.uniform(0.2, 0.5, (images, 4, 4))], -1)
    near = gold[:, draw.integers(0, 4, queries)] + np.pad(
        draw.normal(0, 0.02, (images, queries, 4)), [(0, 0), (0, 0), (1, 0)]
    )
    far = np.concatenate(
        [draw.integers(0, classes, (images, queries, 1)), draw.uniform(0.1, 0.6, (images, queries, 4))], -1
    )
    box = np.where(draw.random((images, queries, 1)) < 0.5, near, far)
    box[..., 0] = np.where(box[..., 0] < 0, 0, box[..., 0])
    score = draw.permuted(np.arange(images * queries) / (images * queries)).reshape(images, queries, 1)
    found = np.concatenate([box[..., :1], score, box[..., 1:]], -1).astype(np.float32)
    return FoundBoxes(found, gold.astype(np.float32), np.ones(images, np.int64))


def plain_precision(p: FoundBoxes, threshold: float) -> float:
    """One class after the other and one box after the other, as COCO's own tool goes."""
    precisions = []
    for number in sorted({int(one) for one in p.gold[..., 0].ravel() if one >= 0}):
        listed = [(image, box) for image in range(len(p)) for box in p.found[image] if box[0] == number]
        true = {image: [box[1:] for box in p.gold[image] if box[0] == number] for image in range(len(p))}
        total, taken = sum(map(len, true.values())), set[tuple[int, int]]()
        right = []
        for image, box in sorted(listed, key=lambda pair: -pair[1][1]):
            overlaps = [
                (float(overlap(box[None, 2:], one[None])[0, 0]), place)
                for place, one in enumerate(true[image])
                if (image, place) not in taken
            ]
            best = max(overlaps, default=(0.0, -1), key=lambda pair: pair[0])
            right.append(best[0] >= threshold - 1e-10)
            if right[-1]:
                taken.add((image, best[1]))
        reached = [(sum(right[: n + 1]) / total, sum(right[: n + 1]) / (n + 1)) for n in range(len(right))]
        points = [max((p for r, p in reached if r >= point / 100 - 1e-12), default=0.0) for point in range(101)]
        precisions.append(sum(points) / 101)
    return 100 * sum(precisions) / len(precisions)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 9999))
def test_precision_is_that_of_a_plain_loop(seed: int) -> None:
    p = drawn(seed)
    if (p.gold[..., 0] < 0).all():
        return
    assert METRICS["map50"].value(p) == pytest.approx(plain_precision(p, 0.5), abs=1e-6)
    wanted = np.mean([plain_precision(p, float(one)) for one in OVERLAPS])
    assert METRICS["map"].value(p) == pytest.approx(wanted, abs=1e-6)


def test_weights_count_a_sample_as_often_as_it_is_drawn() -> None:
    metric, p = METRICS["map"], drawn(3)
    twice = p.take(np.array([0, 0, 0, 2, 4, 4]))
    weights = np.array([[3, 0, 1, 0, 2, 0], [1, 1, 1, 1, 1, 1]]) / 6
    given = metric.weighted(metric.rows(p), weights)
    assert given == pytest.approx([metric.value(twice), metric.value(p)], abs=1e-6)


def one_image(found: list[list[float]], gold: list[list[float]], placed: int = 1) -> FoundBoxes:
    return FoundBoxes(np.array([found], np.float32), np.array([gold], np.float32), np.array([placed]))


def test_a_box_counts_by_how_far_it_overlaps() -> None:
    true = [0, 0.5, 0.5, 0.4, 0.4]
    p = one_image([[0, 0.9, 0.5, 0.5, 0.4, 0.3]], [true])  # three quarters of it: right at 0.5 to 0.75
    assert METRICS["map"].value(p) == pytest.approx(60) and METRICS["map50"].value(p) == pytest.approx(100)
    second = one_image([[0, 0.9, 0.1, 0.1, 0.1, 0.1], [0, 0.8, 0.5, 0.5, 0.4, 0.4]], [true])
    assert METRICS["map"].value(second) == pytest.approx(50)
    assert METRICS["map"].value(one_image([[1, 0.9, 0.5, 0.5, 0.4, 0.4]], [true])) == 0


def test_where_only_classes_are_known_the_best_box_of_the_class_is_right_wherever_it_lies() -> None:
    whole = [0, 0.5, 0.5, 1, 1]
    found = [[0, 0.9, 0.1, 0.1, 0.1, 0.1], [0, 0.8, 0.9, 0.9, 0.1, 0.1], [1, 0.7, 0.5, 0.5, 0.1, 0.1]]
    assert METRICS["map"].value(one_image(found, [whole], 0)) == pytest.approx(100)


def test_boxes_that_both_claim_are_the_same_boxes() -> None:
    one = [[0, 0.9, 0.5, 0.5, 0.4, 0.4], [1, 0.9, 0.2, 0.2, 0.2, 0.2], [1, 0.1, 0.7, 0.7, 0.2, 0.2]]
    other = [[0, 0.6, 0.5, 0.5, 0.4, 0.39], [1, 0.4, 0.2, 0.2, 0.2, 0.2], [1, 0.1, 0.1, 0.7, 0.2, 0.2]]
    gold = [[0, 0.5, 0.5, 0.4, 0.4]]
    was, now = one_image(one, gold), one_image(other, gold)
    assert METRICS["same_boxes"].value(was, was) == 100 and was.agree(was).all()
    assert METRICS["same_boxes"].value(was, now) == pytest.approx(100 * 2 / 3) and not was.agree(now).any()
    assert [(one.reference, one.candidate, one.moved) for one in was.most_changed(now)] == [("0, 1", "0", 1.0)]


def test_answers_are_kept_and_come_back(tmp_path: Path) -> None:
    p = drawn(1)
    p.save(tmp_path / "answers.npz")
    back = load_samples(tmp_path / "answers.npz")
    assert isinstance(back, FoundBoxes) and np.array_equal(back.found, p.found)
    assert METRICS["map"].value(p.restored(p.compact().tobytes())) == METRICS["map"].value(p)
    with pytest.raises(InputError, match=r"give \[samples, boxes, 6\]"):
        FoundBoxes(p.found[..., :5], p.gold, p.placed)


# From the data to the device


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector that is sure of some of its boxes."""
    place = tmp_path_factory.mktemp("yolos")
    return detector(place, len(NAMES))


def detector(place: Path, classes: int) -> Path:
    config = transformers.YolosConfig(
        **{"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20},
        **{"image_size": [8, 13], "patch_size": 4, "num_detection_tokens": 5},
        id2label=dict(enumerate(NAMES[:classes])),
        label2id={name: number for number, name in enumerate(NAMES[:classes])},
    )
    torch.manual_seed(2)
    model = transformers.YolosForObjectDetection(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and "layernorm" not in name:
                parameter.copy_(torch.randn(parameter.shape) * 0.3)
            elif "layernorm" not in name:
                wide = parameter[0].numel() ** 0.5 if parameter.ndim in (2, 4) else 1.5
                parameter.copy_(torch.randn(parameter.shape) * (2 if "layers" in name else 1.5) / wide)
        model.get_parameter("class_labels_classifier.layers.2.weight").mul_(3)
        model.get_parameter("class_labels_classifier.layers.2.bias")[-1] -= 3  # there is something
    model.save_pretrained(place)
    settings = {"image_processor_type": "YolosImageProcessor", "size": {"shortest_edge": 8, "longest_edge": 13}}
    (place / "preprocessor_config.json").write_text(json.dumps(settings | {"do_pad": True}))
    return place


def coco(place: Path, boxes: Mapping[int, list[tuple[int, list[float]]]], **changes: Any) -> Path:
    """A COCO file of images that are there."""
    place.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    for number in boxes:
        Image.fromarray(draw.integers(0, 256, (*SIZE, 3), np.uint8)).save(place / f"{number}.png")
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "height": SIZE[0], "width": SIZE[1]} for n in boxes],
        "categories": [{"id": number + 1, "name": name} for number, name in enumerate(NAMES)],
        "annotations": [
            {"id": 0, "image_id": n, "category_id": number + 1, "bbox": box, "iscrowd": 0}
            for n, own in boxes.items()
            for number, box in own
        ],
    }
    (place / "_annotations.coco.json").write_text(json.dumps(content | changes))
    return place


@pytest.fixture(scope="module")
def data(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the detector claims of random images, with boxes of every tenth image elsewhere."""
    blank = {number: [(0, [0.0, 0.0, 4.0, 4.0])] for number in range(COUNT)}
    place = coco(tmp_path_factory.mktemp("images"), blank)
    questions = questions_about(folder, place)
    found = questions.answers(questions.sides[0])
    assert isinstance(found, FoundBoxes)
    boxes = {}
    for index, name in enumerate(questions.names):
        number = int(Path(name).stem)
        moved = 3.0 if number % 10 == 0 else 0.0
        boxes[number] = [(int(one[0]), pixels(one[2:], moved)) for one in found.claimed(index)]
    assert sum(map(len, boxes.values())) > COUNT
    return coco(place, dict(sorted(boxes.items())))


def pixels(box: np.ndarray, moved: float) -> list[float]:
    x, y, width, height = map(float, box)
    return [
        (x - width / 2) * SIZE[1] + moved,
        (y - height / 2) * SIZE[0] + moved,
        width * SIZE[1],
        height * SIZE[0],
    ]


def test_a_damaged_detector_does_not_pass_and_one_hardly_changed_does(folder: Path, data: Path, tmp_path: Path) -> None:
    def judged(size: float) -> Status:
        side = hurt_tensors(folder, tmp_path / str(size), size, lambda name: ".layer." in name)
        # What 90 images prove of a precision is known to fewer points than a share of them.
        report = evaluate(Options(str(folder), str(side), str(data), part="all", max_drop=20.0)).report
        assert report.task == "object-detection" and report.drift is not None
        return report.verdict

    assert judged(1e-6) is Status.PASS
    assert judged(1.0) is Status.FAIL


def test_a_run_ships_a_bundle_that_answers_with_boxes(
    folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = shipped(folder, data, tmp_path, "gate.min_samples=10", max_drop=60)
    assert "images are resized to 8 x 12, whatever their shape" in capsys.readouterr().out
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert [one["name"] for one in manifest["outputs"]] == ["logits", "pred_boxes"]
    questions = questions_about(folder, data)
    found = questions.answers(questions.sides[0])
    assert isinstance(found, FoundBoxes)
    pictures = sorted(data.glob("*.png"))[::20]
    for picture, result in zip(pictures, asked(bundle, *map(str, pictures)), strict=True):
        claimed = found.claimed(list(questions.names).index(picture.name))
        assert [one["label"] for one in result["boxes"]] == [NAMES[int(one[0])] for one in claimed]
        for one, (_, probability, x, y, width, height) in zip(result["boxes"], claimed, strict=True):
            sides = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
            np.testing.assert_allclose(one["box"], np.clip(sides, 0, 1), atol=1e-4)
            assert one["probability"] == pytest.approx(probability, abs=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("size", [[8, 12], [12, 16]])
def test_a_detector_of_one_class_finds_what_transformers_finds(tmp_path: Path, size: list[int]) -> None:
    detector(tmp_path, 1)
    original = transformers.YolosForObjectDetection.from_pretrained(tmp_path)
    notes = list[str]()
    model = read_checkpoint(tmp_path, {"size": size}, notes.append)
    x_BCYX = torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(1))
    mine, theirs = model.outputs({"pixel_values": x_BCYX}), original(x_BCYX)
    for name in ("logits", "pred_boxes"):
        torch.testing.assert_close(mine[name], theirs[name], atol=1e-4, rtol=0)
    assert model.structure.labels == ("bolt",) and notes == []


def test_patches_are_not_pooled_before_layers_that_add_positions(folder: Path) -> None:
    model = read_checkpoint(folder, {"size": [8, 16]})
    with pytest.raises(InputError, match="pool-tokens is refused before a layer that adds positions of its own"):
        rewritten(model, "pool-tokens", after=0)


def test_layers_keep_their_positions_through_exact_rewrites(folder: Path) -> None:
    model = read_checkpoint(folder, {"size": [8, 12]})
    for use in ("fold-norm", "drop-key-bias", "fold-value-bias", "merge-qk", "trim-last-block"):
        assert moved(model, rewritten(model, use)) <= 1e-4


def test_a_bare_yolos_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "bare")
    path = tmp_path / "bare" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": ["YolosModel"]}))
    with pytest.raises(InputError, match="of YOLOS only YolosForObjectDetection is read"):
        read_checkpoint(tmp_path / "bare", {"size": [8, 12]})


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"size": {"shortest_edge": 8, "longest_edge": 13}, "do_pad": True}, [8, 12]),
        (
            {
                "image_processor_type": None,
                "feature_extractor_type": "YolosFeatureExtractor",
                "size": 8,
                "max_size": 13,
            },
            [8, 12],
        ),
        ({"size": {"height": 12, "width": 16}, "do_pad": True}, [12, 16]),
    ],
)
def test_images_come_in_the_one_size_of_the_graph(
    folder: Path, tmp_path: Path, settings: dict[str, Any], size: list[int]
) -> None:
    shutil.copytree(folder, tmp_path / "model")
    given = {"image_processor_type": "YolosImageProcessor"} | settings
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps(given))
    notes = list[str]()
    section = tasks.get("object-detection").preprocessing(tmp_path / "model", notes.append)
    assert section["size"] == size and section["resize"] == {"mode": "exact", "size": size, "resample": "bilinear"}
    assert len(notes) == (size == [8, 12])


# Files of boxes


BOX = [(1, [3.0, 2.0, 6.0, 4.0])]


def test_boxes_become_shares_of_the_image(tmp_path: Path) -> None:
    dataset = load(str(coco(tmp_path, {0: BOX, 1: []})), boxes=True)
    assert dataset.boxes is not None and dataset.class_names == ("nut",)
    by_name = dict(zip(dataset.names, dataset.boxes, strict=True))
    np.testing.assert_allclose(by_name["0.png"], [[0, 0.5, 0.5, 0.5, 0.5]])
    assert by_name["1.png"].shape == (0, 5)
    of_model = dataset.for_some_of(NAMES).boxes
    assert of_model is not None and [one[:, 0].tolist() for one in of_model] in ([[1], []], [[], [1]])


def test_files_that_are_named_as_parts_are_parts(tmp_path: Path) -> None:
    coco(tmp_path / "train", dict.fromkeys(range(4), BOX))
    coco(tmp_path / "valid", dict.fromkeys(range(2), BOX))
    names = {part: load(str(tmp_path), part=part, boxes=True).names for part in ("evaluation", "healing")}
    assert all(name.startswith("valid/") for name in names["evaluation"])
    assert all(name.startswith("train/") for name in names["healing"])
    (tmp_path / "valid").rename(tmp_path / "more")
    with pytest.raises(InputError, match="do not say which is for training and which for testing"):
        load(str(tmp_path), boxes=True)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"annotations": []}, "no boxes in _annotations.coco.json; name another file"),
        ({"annotations": [{"image_id": 9, "category_id": 1, "bbox": [0, 0, 1, 1]}]}, "is not a COCO file: KeyError 9"),
        (
            {"images": [{"id": 0, "file_name": "gone.png", "height": 8, "width": 12}]},
            "1 of 1 images are not there: gone.png",
        ),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        load(str(coco(tmp_path, {0: BOX}, **changes)), boxes=True)


def test_an_image_of_another_size_than_its_boxes_is_named(tmp_path: Path) -> None:
    turned = {"images": [{"id": 0, "file_name": "0.png", "height": SIZE[1], "width": SIZE[0]}]}
    dataset = load(str(coco(tmp_path, {0: BOX}, **turned)), boxes=True)
    assert "0.png: is of 8 x 12, but its boxes are about 12 x 8" in dataset.unreadable()[0]


def test_crowds_are_left_out_with_a_note(tmp_path: Path) -> None:
    crowd = {"image_id": 0, "category_id": 1, "bbox": [0, 0, 4, 4], "iscrowd": 1}
    one = {"image_id": 0, "category_id": 2, "bbox": [0, 0, 4, 4]}
    dataset = load(str(coco(tmp_path, {0: []}, annotations=[crowd, one])), boxes=True)
    assert dataset.boxes is not None and len(dataset.boxes[0]) == 1
    assert dataset.notes == ("_annotations.coco.json: 1 boxes left out, of crowds or without an area",)


def test_images_by_class_are_judged_by_what_is_found(folder: Path, tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / NAMES[number % 3]).mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (*SIZE, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / NAMES[number % 3] / f"{number}.png")
    questions = questions_about(folder, tmp_path)
    found = questions.answers(questions.sides[0])
    assert isinstance(found, FoundBoxes) and not found.placed.any()
    assert [NAMES[int(one)] for one in found.gold[:, 0, 0]] == [Path(name).parent.name for name in questions.names]
    task, prepared = tasks.get("object-detection"), questions.prepared(questions.sides[0])
    assert any("the data have no boxes, only a class for each image" in note for note in prepared.notes)
    with pytest.raises(InputError, match=r"logits \[batch, boxes, 3 classes \+ 1\] and boxes of 4 are needed"):
        task.answers(lambda inputs: {"logits": np.zeros((6, 5, 3)), "pred_boxes": np.zeros((6, 5, 4))}, prepared, print)
