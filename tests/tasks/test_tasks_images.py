"""Tasks on images without a classifier, from the data to the device: a gate that sees damage, a bundle that answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from support.damage import hurt_tensors, questions_about
from support.jobs import asked, shipped
from support.tiny_texts import WORDS
from support.towers import IMAGES, processor, towers_folder

from compress import tasks
from compress.tasks.task import DataChoice
from compress.verification.kinds.classes import Predictions
from compress.verification.kinds.embeddings import EmbeddedClasses
from compress.verification.kinds.scores import TextScores
from compress.verification.outcome import Status
from compress.verify import Options, evaluate
from targets.errors import InputError

CLASSES, COUNT = ("w1", "w2", "w3"), 120


class Setting(NamedTuple):
    """A model folder of a task, and images of which the model knows the classes."""

    task: str
    folder: Path
    data: Path


def drawn(place: int) -> Image.Image:
    """A noisy image of one of three colours."""
    draw = np.random.default_rng(place)
    colour = 60 + 140 * np.eye(3)[place % 3]
    return Image.fromarray(np.clip(colour + draw.normal(0, 30, (8, 8, 3)), 0, 255).astype(np.uint8))


def filed(data: Path, labels: list[str]) -> Path:
    for place, label in enumerate(labels):
        (data / label).mkdir(parents=True, exist_ok=True)
        drawn(place).save(data / label / f"{place}.png")
    return data


def embedding(root: Path) -> Setting:
    torch.manual_seed(0)
    transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**IMAGES)).save_pretrained(root / "model")
    processor(root / "model", "SiglipImageProcessor")
    labels = [CLASSES[place % 3] for place in range(COUNT)]
    return Setting("image-embedding", root / "model", filed(root / "images", labels))


def zero_shot(root: Path) -> Setting:
    """Images of three colours in three classes that the model tells apart by them, one in ten under another."""
    towers_folder(root / "model", "CLIP")
    filed(root / "any", [WORDS[place % 60] for place in range(COUNT)])
    questions = questions_about(root / "model", root / "any")
    found = questions.answers(questions.sides[0])
    assert isinstance(found, Predictions) and found.names is not None
    colours = np.array([int(Path(name).stem) % 3 for name in questions.names])
    means = np.stack([found.logits[colours == colour].mean(axis=0) for colour in range(3)])
    chosen = told_apart(means)
    names = [found.names[one] for one in chosen]
    labels = [names[(place + (place % 10 == 0)) % 3] for place in range(COUNT)]
    return Setting("zero-shot-image-classification", root / "model", filed(root / "images", labels))


def told_apart(means_KC: np.ndarray) -> tuple[int, ...]:
    """A class for each of three kinds of images that scores higher for it than the other two do, by the widest margin
    at the narrowest place."""
    grids = [means_KC[:, :, None, None], means_KC[:, None, :, None], means_KC[:, None, None, :]]
    others = [np.maximum(grids[1], grids[2]), np.maximum(grids[0], grids[2]), np.maximum(grids[0], grids[1])]
    margins = [grids[kind][kind] - others[kind][kind] for kind in range(3)]
    narrowest = np.minimum(np.minimum(margins[0], margins[1]), margins[2])
    assert narrowest.max() > 0
    return tuple(map(int, np.unravel_index(narrowest.argmax(), narrowest.shape)))


def regression(root: Path) -> Setting:
    """Images in classes that are called by numbers, which rise with what the model gives."""
    torch.manual_seed(0)
    options = {**IMAGES, "num_labels": 1, "initializer_range": 0.3}
    transformers.ViTForImageClassification(transformers.ViTConfig(**options)).save_pretrained(root / "model")
    processor(root / "model", "ViTImageProcessor")
    filed(root / "any", ["7"] * COUNT)
    questions = questions_about(root / "model", root / "any")
    found = questions.answers(questions.sides[0])
    assert isinstance(found, TextScores)
    numbers = {int(Path(name).stem): one for name, one in zip(questions.names, found.outputs, strict=True)}
    bounds = np.quantile(found.outputs, (1 / 3, 2 / 3))
    labels = [("-1.5", "2", "10")[int((bounds < numbers[place]).sum())] for place in range(COUNT)]
    return Setting("image-regression", root / "model", filed(root / "images", labels))


MADE = {"image-embedding": embedding, "image-regression": regression, "zero-shot-image-classification": zero_shot}


@pytest.fixture(scope="module", params=MADE)
def setting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return MADE[request.param](tmp_path_factory.mktemp("images"))


def of_image_layers(name: str) -> bool:
    return ".layer" in name and "text_model" not in name


def test_a_damaged_model_does_not_pass_and_one_hardly_changed_does(setting: Setting, tmp_path: Path) -> None:
    def judged(size: float) -> Status:
        side = hurt_tensors(setting.folder, tmp_path / str(size), size, of_image_layers)
        # What 120 images prove of a rank correlation is known to fewer points than a share of them.
        bound = 20.0 if setting.task == "image-regression" else 5.0
        options = Options(str(setting.folder), str(side), str(setting.data), part="all", max_drop=bound)
        report = evaluate(options).report
        assert report.task == setting.task and report.drift is not None
        return report.verdict

    assert judged(1e-5) is Status.PASS
    assert judged(3.0) is Status.FAIL


def test_a_run_ships_a_bundle_that_answers(
    setting: Setting, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = shipped(setting.folder, setting.data, tmp_path, "gate.min_samples=10", max_drop=60)
    assert "off by" in capsys.readouterr().out
    manifest = json.loads((bundle / "manifest.json").read_text())
    texts = {"input_ids", "attention_mask"} if setting.task.startswith("zero") else set()
    assert manifest["task"] == setting.task
    assert {one["name"] for one in manifest["inputs"]} == {"pixel_values", *texts}
    pictures = [str(path) for path in sorted(setting.data.rglob("*.png"))[::40]]
    results = asked(bundle, *pictures)
    questions = questions_about(setting.folder, setting.data)
    found = questions.answers(questions.sides[0])
    places = [list(questions.names).index(str(Path(one).relative_to(setting.data))) for one in pictures]
    if isinstance(found, EmbeddedClasses):
        given = np.array([one["embedding"] for one in results])
        np.testing.assert_allclose(given, found.vectors[places, 0], atol=1e-4)
        return
    if isinstance(found, TextScores):
        np.testing.assert_allclose([one["score"] for one in results], found.outputs[places], atol=1e-4)
        return
    assert isinstance(found, Predictions) and found.names is not None
    best = [found.names[at] for at in found.logits[places].argmax(axis=1)]
    assert [one["top"][0]["label"] for one in results] == best


def test_classes_that_are_no_numbers_count_by_the_order_of_their_names(tmp_path: Path) -> None:
    data = filed(tmp_path / "images", [("bad", "fair", "good")[place % 3] for place in range(30)])
    task = tasks.get("image-regression")
    processor(tmp_path, "ViTImageProcessor")
    section = task.preprocessing(tmp_path, print)
    prepared = task.open(DataChoice(str(data), None, False, 0), "all", None, section, None)
    assert "the classes are not numbers (bad, fair, good): they count 0, 1, 2" in prepared.notes[-1]
    found = task.answers(lambda inputs: {"logits": np.zeros((len(inputs["pixel_values"]), 1))}, prepared, print)
    assert isinstance(found, TextScores)
    wanted = [("bad", "fair", "good").index(Path(name).parent.name) for name in prepared.names]
    np.testing.assert_array_equal(found.gold, wanted)
    with pytest.raises(InputError, match=r"outputs of shape \[30, 2\]; image-regression needs one a sample"):
        task.answers(lambda inputs: {"logits": np.zeros((len(inputs["pixel_values"]), 2))}, prepared, print)
