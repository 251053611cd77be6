"""Parallel texts: line-aligned files, tables, and what is wrong with them in one line."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from support.translators import PAD, saved_translator

from compress import tasks
from compress.data import load_texts
from compress.tasks.task import DataChoice
from runtime.texts.text import TARGET
from targets.errors import InputError


def write(folder: Path, **files: str) -> str:
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_text(content)
    return f"{folder}#de-en"


def test_line_aligned_files_become_pairs_in_their_parts(tmp_path: Path) -> None:
    spec = write(tmp_path, train_de="a\nb\n", train_en="A\nB\n", test_de="c\n")
    (tmp_path / "test.en.gz").write_bytes(gzip.compress(b"C\n"))
    assert [row.texts for row in load_texts(spec, part="evaluation").rows] == [("c", "C")]
    assert [row.texts for row in load_texts(spec, part="healing").rows] == [("a", "A"), ("b", "B")]


def test_a_table_of_source_and_target_holds_pairs(tmp_path: Path) -> None:
    (tmp_path / "pairs.tsv").write_text("source\ttarget\na\tA\nb\tB\n")
    assert {row.texts for row in load_texts(str(tmp_path / "pairs.tsv")).rows} == {("a", "A"), ("b", "B")}


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ({"train_de": "a\nb\nc\n", "train_en": "A\nB\n"}, "line 3 of train.de has no partner"),
        ({"train_de": "a\n"}, "no train.en to go with it"),
        ({"other_de": "a\n"}, "has none of train.de"),
    ],
)
def test_files_that_do_not_go_together_are_refused(tmp_path: Path, files: dict[str, str], line: str) -> None:
    with pytest.raises(InputError) as refused:
        load_texts(write(tmp_path, **files))
    assert line in str(refused.value) and len(str(refused.value)) < 300


def test_an_empty_line_is_named_and_can_be_skipped(tmp_path: Path) -> None:
    spec = write(tmp_path, train_de="a\n\nc\nd\n", train_en="A\nB\nC\nD\n")
    with pytest.raises(InputError, match=r"line 2 of train\.de is empty"):
        load_texts(spec).check()
    assert len(load_texts(spec, skip_corrupt=True)) == 3


def test_a_target_is_fed_behind_its_start_and_ends_with_its_stop(tmp_path: Path) -> None:
    saved_translator(tmp_path)
    task = tasks.of_folder(tmp_path)
    section = task.preprocessing(tmp_path, print)
    (tmp_path / "pairs.tsv").write_text("source\ttarget\nw1 w2\tw3\nw4\tw5 w6\n")
    choice = DataChoice(str(tmp_path / "pairs.tsv"), None, False, 0)
    data = task.open(choice, "all", None, section, tmp_path)
    batch = next(data.batches(2, [0, 1]))
    assert batch["input_ids"].tolist() == [[4, 5, 0], [7, 0, 2]]
    assert batch[TARGET].tolist() == [[PAD, 6, 2], [PAD, 8, 9]]
    assert batch["decoder_attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]


def test_texts_that_are_no_pairs_are_refused(tmp_path: Path) -> None:
    saved_translator(tmp_path)
    task = tasks.of_folder(tmp_path)
    (tmp_path / "texts.txt").write_text("w1 w2\nw3\n")
    choice = DataChoice(str(tmp_path / "texts.txt"), None, False, 0)
    with pytest.raises(InputError, match="give pairs, in columns source and target"):
        task.open(choice, "all", None, task.preprocessing(tmp_path, print), tmp_path)
