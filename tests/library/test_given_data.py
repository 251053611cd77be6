"""Objects that callers hand over as data, written as the files that the command takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from library.conftest import images
from PIL import Image

from compress.data import load
from compress.data.text_specs import load_texts
from edgepress.given.data import source_of
from targets.errors import InputError


class Pairs:
    """What torch calls a map-style data set, and torchvision gives `classes`."""

    def __init__(self, records: list[Any], classes: list[str] | None = None) -> None:
        self._records = records
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Any:
        return self._records[index]


def source(data: Any, place: Path) -> str:
    found = source_of(data, place)
    assert found is not None
    return found


PIXELS, LABELS = images(20)
PICTURES = [Image.fromarray(one) for one in PIXELS]
AS_RECORDS = [{"image": picture, "label": int(label)} for picture, label in zip(PICTURES, LABELS, strict=True)]


@pytest.mark.parametrize(
    "data",
    [
        (PIXELS, LABELS),
        {"images": PIXELS, "labels": LABELS},
        list(zip(PIXELS, LABELS.tolist(), strict=True)),
        Pairs(list(zip(PICTURES, LABELS.tolist(), strict=True))),
        AS_RECORDS,
    ],
    ids=["arrays", "named arrays", "pairs", "torch", "records"],
)
def test_images_arrive_pixel_by_pixel(data: Any, tmp_path: Path) -> None:
    found = load(source(data, tmp_path))
    np.testing.assert_array_equal(np.stack(list(found.raw(range(20)))), PIXELS)
    assert found.labels.tolist() == LABELS.tolist()


def test_images_of_several_sizes_arrive_too_in_folders_of_their_classes(tmp_path: Path) -> None:
    other = PICTURES[0].resize((9, 7))
    found = load(
        source(
            [(picture, f"c{label}") for picture, label in [(other, 0), *zip(PICTURES, LABELS, strict=True)]], tmp_path
        )
    )
    assert len(found) == 21 and found.class_names == ("c0", "c1", "c2", "c3", "c4")
    assert sorted(image.shape for image in found.raw(range(21)))[0] == (7, 9, 3)


def test_splits_keep_their_use(tmp_path: Path) -> None:
    both = {"train": AS_RECORDS[:12], "validation": AS_RECORDS[12:]}
    place = source(both, tmp_path)
    assert len(load(place, part="healing")) == 12
    assert len(load(place, part="evaluation")) == 8


def test_a_test_set_with_secret_labels_is_not_the_one_to_judge_on(tmp_path: Path) -> None:
    rows = [{"text": f"text number {index}", "label": index % 2} for index in range(40)]
    secret = [{**row, "label": -1} for row in rows]
    place = source({"train": rows[:20], "validation": rows[20:30], "test": secret[30:]}, tmp_path)
    texts = load_texts(place, part="evaluation")
    assert [row.label for row in texts.rows] == [str(row["label"]) for row in rows[20:30]]


def test_names_of_classes_travel(tmp_path: Path) -> None:
    names = ["ant", "bee", "cat", "dog", "eel"]
    found = load(source(Pairs(list(zip(PICTURES, LABELS.tolist(), strict=True)), names), tmp_path))
    assert found.class_names == tuple(names)


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        (["one text", "another"], [{"text": "one text"}, {"text": "another"}]),
        ([("good", 1), ("bad", 0)], [{"text": "good", "label": 1}, {"text": "bad", "label": 0}]),
        (
            [{"sentence1": "a", "sentence2": "b", "score": np.float64(0.5)}],
            [{"sentence1": "a", "sentence2": "b", "score": 0.5}],
        ),
        ([{"tokens": ["A", "b"], "ner_tags": [1, 0]}], [{"tokens": ["A", "b"], "ner_tags": [1, 0]}]),
    ],
)
def test_texts_become_lines_of_json(data: Any, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    file = Path(source(data, tmp_path))
    assert [json.loads(line) for line in file.read_text().splitlines()] == rows


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ([], "holds nothing"),
        ((PIXELS, LABELS[:3]), "20 samples and 3 labels"),
        ([(PIXELS[0].astype(np.float32) / 255, 1)], "without the transform"),
        ([(PIXELS[0].transpose(2, 0, 1), 1)], r"uint8 \[3, 8, 8\]"),
        ([{"image": PICTURES[0]}], "an image has no label"),
        ({"a": [], "b": []}, "name the splits train and test"),
        ([3], "a record is a int"),
        (iter(["a"]), "data is a list_iterator"),
    ],
)
def test_what_is_not_data_is_refused_in_one_line(data: Any, line: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=line) as caught:
        source_of(data, tmp_path)
    assert len(str(caught.value)) < 300
    assert not list((tmp_path / "given").iterdir()), "nothing half-written stays"
