"""Tables as people export them: the separator is found, quotes are distinguished from characters, headers from rows."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.data import load_texts
from compress.data.text_files import read_rows
from targets.errors import InputError

ROWS = [(f"it was{', ' if place % 3 else ' '}number {place} of all", str(place % 2)) for place in range(20)]
#: Characters that a writer has to quote, and that readers stumble on.
AWKWARD = 'ab,;\t"|\n é'


def written(rows: list[tuple[str, str]], separator: str, header: str | None = None, quoting: int = 0) -> str:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=separator, lineterminator="\n", quoting=quoting)  # type: ignore[arg-type]
    writer.writerows(([tuple(header.split())] if header else []) + rows)
    return stream.getvalue()


def read(path: Path, text: str, encoding: str = "utf-8") -> list[tuple[str, str | None]]:
    path.write_bytes(text.encode(encoding))
    return [(row.texts[0], row.label) for row in read_rows(path)]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("header", ["text label", None])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_separator_is_found(tmp_path: Path, separator: str, header: str | None, encoding: str) -> None:
    assert read(tmp_path / "a.csv", written(ROWS, separator, header), encoding) == ROWS
    if header or separator in ",\t":  # commas cut texts of a file that says tabs, or the other way round
        assert read(tmp_path / "a.tsv", written(ROWS, separator, header), encoding) == ROWS


def test_excels_hint_is_no_row_and_lines_are_counted_with_it(tmp_path: Path) -> None:
    assert read(tmp_path / "a.csv", "sep=;\r\n" + written(ROWS, ";", "text label")) == ROWS
    assert read_rows(tmp_path / "a.csv")[0].name == "a.csv:3"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.text(AWKWARD, min_size=1), st.sampled_from("01")), min_size=1, max_size=8),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from([",", ";", "\t"]),
)
def test_what_a_csv_writer_wrote_under_a_header_is_read_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], quoting: int, separator: str
) -> None:
    path = tmp_path_factory.mktemp("a") / ("a.tsv" if separator == "\t" else "a.csv")
    assert read(path, written(rows, separator, "text label", quoting)) == [
        (text.strip(), label) for text, label in rows
    ]


def test_quotes_in_a_table_with_tabs_are_characters_unless_a_writer_put_them(tmp_path: Path) -> None:
    plain = 'text\tlabel\n"fine movie"\t1\nthe "best" of all\t1\n"good" and "bad"\t0\n'
    wanted = ['"fine movie"', 'the "best" of all', '"good" and "bad"']
    assert [text for text, _ in read(tmp_path / "a.tsv", plain)] == wanted
    pandas = 'text\tlabel\n"he said ""hi"" to me"\t1\nplain\t0\n'
    assert [text for text, _ in read(tmp_path / "b.tsv", pandas)] == ['he said "hi" to me', "plain"]
    assert read(tmp_path / "c.tsv", '"text"\t"label"\n"a b"\t"1"\n') == [("a b", "1")]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("tweet,target\n" + written(ROWS, ","), "its columns are not known: tweet, target"),
        ("tweet;target\n" + written(ROWS, ";"), "its columns are not known: tweet, target"),
        ("tweet,mood\n" + written([(t, ["good", "bad"][int(n)]) for t, n in ROWS], ","), "not known: tweet, mood"),
        (written([(label, text) for text, label in ROWS], ","), "label first? give it a first line: label, text"),
        (written([(["ham", "spam"][int(n)], text) for text, n in ROWS], "\t"), "label first?"),
    ],
)
def test_columns_that_would_be_mixed_up_are_refused_without_whole_texts(tmp_path: Path, text: str, wanted: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError) as caught:
        load_texts(str(tmp_path / "a.csv"))
    assert wanted in str(caught.value) and len(str(caught.value)) < 300


def test_long_texts_are_never_printed_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("label,text\n" + "".join(f"{text * 400},{place}\n" for place, text in enumerate("abc")))
    with pytest.raises(InputError) as caught:
        load_texts(str(path)).for_labels(["x", "y"])
    assert len(str(caught.value)) < 300 + len(str(path))


def test_a_column_of_texts_without_labels_stays_one(tmp_path: Path) -> None:
    lines = ["one; two", "three", "four | five", "six"]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    assert [row.texts for row in read_rows(tmp_path / "a.csv")] == [(line,) for line in lines]
