"""Texts from files: what is read, which part is for what, and what is refused with one clear line."""

from __future__ import annotations

import gzip
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.data import load_texts
from compress.data.text_files import read_rows
from compress.data.text_specs import zoo_names
from runtime.files import sha256_of
from targets.errors import InputError

ZOO = Path(__file__).parents[2] / "compress" / "zoo" / "text"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize(
    ("name", "text", "texts", "label", "score"),
    [
        ("a.tsv", "one long string\t0\nanother\t1\n", ("one long string",), "0", None),
        ("a.tsv", 'text\tlabel\nsay "no\tbad\n', ('say "no',), "bad", None),
        ("a.csv", 'id,sentence,label\n7,"a, b\nc",good\n', ("a, b\nc",), "good", None),
        ("a.tsv", "3.5\tleft\tright\n", ("left", "right"), None, 3.5),
        ("a.tsv", "left\tright\t3\n", ("left", "right"), None, 3.0),
        ("a.csv", "id,text\n7,a fine film\n", ("a fine film",), None, None),
        ("a.csv", ",content,stars\n7,a fine film,5\n", ("a fine film",), None, None),
        ("a.tsv", "text\t0\nother\t1\n", ("text",), "0", None),
        ("a.csv", "sentence1,sentence2,score\nleft,right,\n", ("left", "right"), None, None),
        ("a.jsonl", '{"text": "grüße", "label": 1}\n\n', ("grüße",), "1", None),
        ("a.jsonl", '{"text": "a\u2028b\x85c"}\r\n', ("a\u2028b\x85c",), None, None),
        ("a.txt", "a\x0cb\u2028c\r\n", ("a\x0cb\u2028c",), None, None),
        ("a.txt", "\ufefffirst\nsecond\n", ("first",), None, None),
        ("a.txt", "first\nline\n\nsecond\n", ("first\nline",), None, None),
    ],
)
def test_every_format_is_read(
    tmp_path: Path, name: str, text: str, texts: tuple[str, ...], label: str | None, score: float | None
) -> None:
    row = read_rows(write(tmp_path / name, text))[0]
    assert (row.texts, row.label, row.score, row.fault) == (texts, label, score, None)
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    assert read_rows(tmp_path / f"{name}.gz")[0].texts == texts


def test_names_give_the_line_where_a_row_begins(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path / "a.csv", 'text,label\n"one\ntwo",x\nthree,y\n'))
    assert [row.name for row in rows] == ["a.csv:2", "a.csv:4"]
    rows = read_rows(write(tmp_path / "a.txt", "a\nb\n\n\nc\n"))
    assert [(row.name, row.texts[0]) for row in rows] == [("a.txt:1", "a\nb"), ("a.txt:5", "c")]


@pytest.mark.parametrize(
    ("name", "data", "wanted"),
    [
        ("a.tsv", b"fine\t0\nnot \xff fine\t1\n", "a.tsv, line 2: byte 0xff is not valid UTF-8"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', "a.jsonl, line 2: not valid JSON"),
        ("a.jsonl", b"[1]\n", "line 1: a list; give an object"),
        ("a.jsonl", b'{"text": ["a", "b"]}\n', "a.jsonl, line 1: text is a list; give one text"),
        ("a.jsonl", b'{"Text": ["a"]}\n', "a.jsonl, line 1: Text is a list"),
        ("a.jsonl", b'\n{"text": "a \\ud800"}\n', "a.jsonl, line 2: text has half a character"),
        ("a.jsonl", b'{"text": ' + b"[" * 100_000 + b"\n", "a.jsonl, line 1: nested too deeply"),
        ("a.jsonl", b'{"words": "a"}\n', "columns words; there must be"),
        ("a.csv", b"a,b,c,d\n", "its columns are not known"),
        ("a.csv", b"text,label\na,b,c\n", "line 2: 3 columns, the first line has 2"),
        (
            "a.tsv",
            b'text\tlabel\n"a\tb"\t0\nsay "c"\t1\n',
            "line 2: 3 columns, the first line has 2; quotes keep no tab",
        ),
        ("a.csv", b'text,label\na,0\n"b,0\nc,1\n', "a.csv, line 3: unexpected end of data; close each quoted text"),
        ("a.csv", b'text,label\na,"0\nb,0\nc,1\n', "a.csv, line 2: unexpected end of data"),
        ("a.tsv", b"text\tlabel\n", "holds no texts"),
        ("a.txt", b"\n \n", "a.txt holds no texts"),
        ("a.csv.gz", b"no gzip", "cannot be read"),
        ("a.csv.gz", gzip.compress(b"text,label\n" * 99, mtime=0)[:-12], "damaged or truncated"),
    ],
)
def test_a_damaged_file_is_one_line_that_names_the_place(tmp_path: Path, name: str, data: bytes, wanted: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=re.escape(wanted)) as caught:
        load_texts(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_unusable_rows_are_named_and_counted_and_skipped_only_when_asked(tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.tsv", "sentence1\tsentence2\tscore\na\tb\t1\n\tc\t2\nd\te\tmuch\nf\tg\t\n"))
    with pytest.raises(InputError, match=r"2 of 4 texts cannot be used: a.tsv:3, a.tsv:4 \(first: the text is empty\)"):
        load_texts(path).check()
    kept = load_texts(path, skip_corrupt=True)
    assert kept.names == ["a.tsv:2", "a.tsv:5"]
    with pytest.raises(InputError, match=r"1 of 2 are not pairs with a score: a.tsv:5; give columns"):
        _ = kept.scores


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.text("abc", min_size=1, max_size=3), st.sampled_from("xyz")), min_size=2, max_size=40),
    seed=st.integers(0, 9),
)
def test_halves_share_no_text_and_do_not_depend_on_the_order(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], seed: int
) -> None:
    folder = tmp_path_factory.mktemp("halves")

    def parts(order: list[tuple[str, str]]) -> list[list[str]]:
        path = write(folder / "a.tsv", "".join(f"{text}\t{label}\n" for text, label in [("text", "label"), *order]))
        found = []
        for part in ("evaluation", "healing"):
            try:
                found.append(sorted(row.texts[0] for row in load_texts(str(path), part=part, seed=seed).rows))  # type: ignore[arg-type]
            except InputError as error:
                assert "has no texts" in str(error)
                found.append([])
        return found

    evaluation, healing = parts(rows)
    assert set(evaluation).isdisjoint(healing)
    assert sorted([*evaluation, *healing]) == sorted(text for text, _ in rows)
    if len(set(rows)) == len({text for text, _ in rows}):  # a text under two labels may stand on either side
        assert parts(rows[::-1]) == [evaluation, healing]


def test_texts_to_evaluate_on_are_left_out_of_the_training_file(tmp_path: Path) -> None:
    write(tmp_path / "train.txt", "one\ntwo\nthree\n")
    write(tmp_path / "dev.tsv", "two\tfour\t1\nfive\tsix\t2\n")
    assert [row.texts for row in load_texts(str(tmp_path), part="healing").rows] == [("one",), ("three",)]
    assert load_texts(str(tmp_path), part="evaluation").scores.tolist() == [1.0, 2.0]
    singles = load_texts(str(tmp_path), part="evaluation").singles()
    assert [row.texts for row in singles.rows] == [("two",), ("four",), ("five",), ("six",)]
    assert singles.names == ["dev.tsv:1", "dev.tsv:1", "dev.tsv:2", "dev.tsv:2"]


@pytest.mark.parametrize("empty", ["train.txt", "test.txt"])
def test_a_file_without_texts_is_not_made_up_for_by_the_other(tmp_path: Path, empty: str) -> None:
    for name in ("train.txt", "test.txt"):
        write(tmp_path / name, "" if name == empty else "one\ntwo\nthree\n")
    with pytest.raises(InputError, match=f"{empty} holds no texts"):
        load_texts(str(tmp_path), part="evaluation")


def test_classes_are_matched_by_name_or_refused(tmp_path: Path) -> None:
    named = load_texts(str(write(tmp_path / "a.tsv", "a\tpositive\nb\tnegative\nc\tpositive\n")))
    assert named.labels.tolist() == [1, 0, 1]
    assert named.for_labels(["Positive", "NEGATIVE"]).labels.tolist() == [0, 1, 0]
    assert named.for_labels(["LABEL_0", "LABEL_1"]).labels.tolist() == [1, 0, 1]
    with pytest.raises(InputError, match="no class named negative"):
        named.for_labels(["positive", "neutral"])
    with pytest.raises(InputError, match=r"2 classes but the model has 3.* negative, positive against positive, neg"):
        named.for_labels(["positive", "negative", "neutral"])
    numbered = load_texts(str(write(tmp_path / "b.jsonl", '{"text": "a", "label": 2}\n{"text": "b", "label": 0}\n')))
    assert numbered.for_labels(["x", "y", "z"]).labels.tolist() == [2, 0]
    with pytest.raises(InputError, match="labels reach 2 but the model has 2 classes"):
        numbered.for_labels(["x", "y"])
    assert numbered.for_labels(["0", "2", "1"]).labels.tolist() == [1, 0]
    with pytest.raises(InputError, match=r"1 of 2 texts have no label: c.jsonl:1"):
        _ = load_texts(str(write(tmp_path / "c.jsonl", '{"text": "a"}\n{"text": "b", "label": 0}\n'))).labels


def test_a_limit_takes_evenly_from_the_classes_and_the_digest_follows_the_content(tmp_path: Path) -> None:
    rows = "".join(f"text {i}\t{'rare' if i % 10 == 0 else 'common'}\n" for i in range(100))
    path = str(write(tmp_path / "a.tsv", rows))
    some = load_texts(path, limit=12)
    assert np.bincount(some.labels).tolist() == [6, 6]
    assert some.names == load_texts(path, limit=12).names
    assert some.digest() == load_texts(path, limit=12).digest() != load_texts(path).digest()


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ("zoo:sst3", "did you mean 'sst2'"),
        ("nowhere.tsv", "no texts at nowhere.tsv"),
        ("{}", "has no file train or test"),
        ("{}/both", "test.csv and test.tsv; keep one of them"),
        ("{}/a.pdf", "is not a data set of texts"),
    ],
)
def test_a_wrong_spec_says_what_to_give(tmp_path: Path, spec: str, wanted: str) -> None:
    (tmp_path / "a.pdf").write_bytes(b"")
    (tmp_path / "both").mkdir()
    for name in ("test.tsv", "test.csv"):
        write(tmp_path / "both" / name, "a\tb\n")
    with pytest.raises(InputError, match=re.escape(wanted)):
        load_texts(spec.format(tmp_path))


def test_the_cards_of_the_embedded_texts_give_size_digest_and_count() -> None:
    assert zoo_names() == ["m30k", "sst2", "stories", "sts", "tinyshakespeare"]
    for name in zoo_names():
        card = (ZOO / name / "README.md").read_text()
        rows = re.findall(r"^\| (\S+) \| ([0-9,]+) .* (\d+) \| ([0-9a-f]{64}) \|$", card, re.M)
        assert {file for file, *_ in rows} == {path.name for path in (ZOO / name).glob("*.gz")}
        for file, count, size, digest in rows:
            assert (ZOO / name / file).stat().st_size == int(size)
            assert sha256_of(ZOO / name / file) == digest
            assert len(read_rows(ZOO / name / file)) == int(count.replace(",", ""))
    load_texts("zoo:sts", part="evaluation").check_scores()
    assert load_texts("zoo:sst2", part="evaluation").class_names == ("negative", "positive")


def test_every_object_of_json_lines_keeps_its_line(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"text {i}", "label": "x"}) for i in range(3)]
    rows = read_rows(write(tmp_path / "a.jsonl", "\n\n".join(lines)))
    assert [row.name for row in rows] == ["a.jsonl:1", "a.jsonl:3", "a.jsonl:5"]


STAND_IN = """
class Split(list):
    column_names = ["sentence", "label"]

def load_dataset(path, config):
    if path != "films":
        raise FileNotFoundError(f"{path} is not on the hub\\nsee the documentation")
    rows = [{"sentence": f"{config} {number}", "label": number % 2} for number in range(4)]
    secret = [{"sentence": "secret", "label": -1}, {"sentence": None, "label": -1}]
    if config == "secret":
        return {"test": Split(secret)}
    return {"train": Split(rows), "validation": Split(rows[:1]), "test": Split(secret)}
"""


def test_data_sets_of_the_package_keep_their_own_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "datasets.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "datasets", raising=False)
    try:
        given = {part: load_texts("datasets:films#old", part=part) for part in ("evaluation", "healing")}  # type: ignore[arg-type]
        assert [row.texts[0] for row in given["evaluation"].rows] == ["old 0"]
        assert [row.texts[0] for row in given["healing"].rows] == ["old 1", "old 2", "old 3"]
        assert given["evaluation"].class_names == ("0", "1")
        secret = load_texts("datasets:films#secret").rows
        assert [(row.label, row.fault) for row in secret] == [(None, None), (None, "the text is empty")]
        with pytest.raises(InputError, match=r"datasets:plays cannot be loaded: plays is not on the hub$"):
            load_texts("datasets:plays")
    finally:
        sys.modules.pop("datasets", None)
