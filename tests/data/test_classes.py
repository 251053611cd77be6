"""Classes of the data find those of the model by value and by name before by order, and it is said how."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.data import load_texts
from compress.data.classes import in_order, listed, match_classes, number_in, plain
from targets.errors import InputError

HERE = Path("data")


def labels_of(path: Path, written: list[str], labels: list[str]) -> tuple[list[int], tuple[str, ...]]:
    """The model's classes of texts with these labels, and what is said of it."""
    path.write_text("text,label\n" + "".join(f"text {place},{label}\n" for place, label in enumerate(written)))
    data = load_texts(str(path)).for_labels(labels)
    return data.labels.tolist(), data.notes


@pytest.mark.parametrize("form", ["{}", "{}.0", "{:02}", "{}e0", "+{}"])
def test_whole_numbers_are_class_numbers_however_they_are_written(tmp_path: Path, form: str) -> None:
    numbers = [0, 11, 2, 10, 1, 3, 4, 5, 6, 7, 8, 9]
    found, notes = labels_of(
        tmp_path / "a.csv", [form.format(one) for one in numbers], [f"LABEL_{i}" for i in range(12)]
    )
    assert found == numbers and notes == ()


def test_numbers_inside_names_sort_by_value_and_the_whole_mapping_is_told(tmp_path: Path) -> None:
    topics = [f"topic {chr(97 + place)}" for place in range(12)]
    found, notes = labels_of(tmp_path / "a.csv", [f"intent_{place}" for place in range(12)], topics)
    assert found == list(range(12))
    told = "; ".join(notes)
    assert all(f"intent_{place} as {topics[place]}" in told for place in range(12))
    assert all(len(note) <= 300 for note in notes)


def test_numbers_that_are_names_of_the_model_are_taken_for_these(tmp_path: Path) -> None:
    assert labels_of(tmp_path / "a.csv", ["5.0", "1.0"], ["1", "2", "3", "4", "5"]) == ([4, 0], ())


def test_numbers_for_classes_with_names_are_told(tmp_path: Path) -> None:
    found, notes = labels_of(tmp_path / "a.csv", ["1", "0"], ["negative", "positive"])
    assert found == [1, 0]
    assert notes == ("labels are taken for the model's class numbers: 0 as negative, 1 as positive",)


def test_exact_names_need_no_word_and_others_are_told() -> None:
    assert match_classes(HERE, ["b", "a"], ["a", "b"]) == (match := match_classes(HERE, ["b", "a"], ["a", "b"]))
    assert match.numbers == (1, 0) and match.notes == ()
    cased = match_classes(HERE, ["Hot_dog", "cat"], ["cat", "hot dog"])
    assert cased.numbers == (1, 0) and "Hot_dog as hot dog" in cased.notes[0] and "cat as" not in cased.notes[0]


def test_names_that_differ_by_case_alone_match_exactly_or_not_at_all() -> None:
    assert match_classes(HERE, ["cat", "Cat"], ["Cat", "cat"]).numbers == (1, 0)
    with pytest.raises(InputError, match="CAT may stand for two of the model's classes"):
        match_classes(HERE, ["CAT", "Dog", "DOG"], ["Cat", "cat", "dog"])
    with pytest.raises(InputError, match="two of its classes are one of the model's"):
        match_classes(HERE, ["cat", "Cat", "dog"], ["cat", "cow", "dog"])


@given(st.permutations([f"class{n}" for n in (0, 1, 2, 9, 10, 11, 100)] + ["7", "70", "8.5", "a"]))
def test_the_order_of_names_does_not_depend_on_that_of_the_files(names: list[str]) -> None:
    ordered = ("7", "8.5", "70", "a", "class0", "class1", "class2", "class9", "class10", "class11", "class100")
    assert in_order(set(names)) == ordered


@given(st.sets(st.text(max_size=8), max_size=12))
def test_any_names_have_an_order(names: set[str]) -> None:
    assert sorted(in_order(names)) == sorted(names)
    assert all(isinstance(plain(name), str) for name in names)


@pytest.mark.parametrize("label", ["1000000000", "9" * 300, "1e300"])
def test_a_label_of_a_billion_takes_no_memory(tmp_path: Path, label: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"text,label\na,0\nb,1\nc,{label}\n")
    with pytest.raises(InputError, match="more labels than 1000 classes") as caught:
        load_texts(str(path)).check_labels()
    assert len(str(caught.value)) < 300
    assert len(load_texts(str(path)).singles()) == 3  # texts without their labels serve all the same


def test_underscores_and_words_are_no_numbers() -> None:
    assert [number_in(text) for text in ("1_000", "inf", "nan", "", "1.5", "-2")] == [None, None, None, None, 1.5, -2]


def test_lists_of_names_are_short_and_in_one_line() -> None:
    told = listed(["x\n" * 5000, *(f"name {place}" for place in range(99))])
    assert "\n" not in told and len(told) < 250 and told.endswith("more")
