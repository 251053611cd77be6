"""Rows of .csv and .tsv files: how their columns are separated, what quotes mean, and which columns they are.

A cell is what stands between two separators, R rows.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from compress.data.classes import listed, number_in
from targets.errors import InputError

#: Names of columns, by what they hold.
COLUMNS: dict[str, tuple[str, ...]] = {
    "text": ("text", "sentence", "content", "document", "review", "comment_text"),
    "label": ("label", "labels", "class", "category", "sentiment"),
    "first": (
        "sentence1",
        "sentence_1",
        "sentence_a",
        "text1",
        "query",
        "first",
        "premise",
        "question1",
        "question",
        "source",
        "src",
    ),
    "second": (
        "sentence2",
        "sentence_2",
        "sentence_b",
        "text2",
        "passage",
        "second",
        "hypothesis",
        "question2",
        "context",
        "target",
        "tgt",
    ),
    "score": ("score", "similarity", "relatedness_score", "gold"),
}
FORMS = "columns text (and label), or sentence1, sentence2 (and label or score), or source, target"
_MEANT = {name for names in COLUMNS.values() for name in names}
#: Rows by which a table without a known header is judged, and fewer than which say nothing.
_LOOKED_AT, _TELLING = 200, 6


@dataclass(frozen=True)
class _Form:
    """What separates cells, and whether quotes hold them together."""

    separator: str
    quoted: bool


def meant(title: str) -> bool:
    """Is it the name of a column that is read here?"""
    return plain_title(title) in _MEANT


def plain_title(cell: str) -> str:
    """A column's name without what does not matter."""
    return cell.strip().casefold()


def table_rows(path: Path, text: str, tabs: bool) -> Iterator[tuple[int, Sequence[str], Sequence[str]]]:
    """(line, header, cells) of each row. `tabs`: what the file's name says of its separator.

    Without a header a table holds text; text and label; sentence1, sentence2 and score in any order.
    Raises InputError that names the line.
    """
    text, first = _behind_hint(text)
    form = _form(text, tabs)
    csv.field_size_limit(1 << 24)
    header: Sequence[str] | None = None
    line = first
    reader = _reader(text, form)
    try:
        for cells in reader:
            number, line = line, reader.line_num + first
            if not cells:
                continue
            if header is None:
                titled = _is_header(cells)
                header = cells if titled else _guessed(path, cells, text, form)
                if titled:
                    continue
            if len(cells) != len(header):
                raise _uneven(path, number, len(cells), len(header), form)
            yield number, header, cells
    except csv.Error as error:
        raise InputError(
            f"{path}, line {line}: {error}; close each quoted text, and double the quotes in it"
        ) from error


def _reader(text: str, form: _Form) -> csv._reader:  # type: ignore[name-defined]
    stream = io.StringIO(text, newline="")
    if form.quoted:
        return csv.reader(stream, delimiter=form.separator, strict=True)
    return csv.reader(stream, delimiter=form.separator, quoting=csv.QUOTE_NONE)


def _uneven(path: Path, line: int, cells: int, columns: int, form: _Form) -> InputError:
    if form.separator != "\t":
        advice = "quote texts that hold the separator"
    elif form.quoted:
        advice = "quote texts with tabs"
    else:
        advice = "quotes keep no tab in its text, so give .csv or .jsonl"
    return InputError(f"{path}, line {line}: {cells} columns, the first line has {columns}; {advice}")


def _behind_hint(text: str) -> tuple[str, int]:
    """The text behind the line with which Excel names the separator (sep=;), and the number of its first line."""
    hint = re.match(r"\"?sep=.\"?\r?\n", text)
    return (text[hint.end() :], 2) if hint else (text, 1)


def _form(text: str, tabs: bool) -> _Form:
    """The separator whose first line names known columns; else the file's own, unless only another one fits."""
    usual = "\t" if tabs else ","
    separators = [usual, *(one for one in ",;\t|" if one != usual)]
    forms = [_Form(one, one != "\t" or _tabs_are_quoted(text)) for one in separators]
    looked_at = [_first_rows(text, form) for form in forms]
    for form, rows in zip(forms, looked_at, strict=True):
        if rows and len(rows[0]) > 1 and _is_header(rows[0]):
            return form
    if looked_at[0] and len(looked_at[0][0]) > 1:
        return forms[0]
    fitting = [
        form
        for form, rows in zip(forms[1:], looked_at[1:], strict=True)
        if len(rows) > 1 and {len(cells) for cells in rows} in ({2}, {3})
    ]
    return fitting[0] if fitting and {len(cells) for cells in looked_at[0]} != {1} else _only(forms, fitting, looked_at)


def _only(forms: Sequence[_Form], fitting: Sequence[_Form], looked_at: Sequence[Sequence[Sequence[str]]]) -> _Form:
    """A table of one column by its own separator is one, unless another cuts off a number or a word that comes back."""
    for form in fitting:
        rows = looked_at[forms.index(form)]
        last = Counter(cells[-1].strip() for cells in rows)
        if len(last) <= len(rows) // 2 or all(number_in(cells[-1].strip()) is not None for cells in rows):
            return form
    return forms[0]


def _first_rows(text: str, form: _Form) -> list[list[str]]:
    """The first rows that are not empty, up to where the text does not read in this form."""
    rows: list[list[str]] = []
    with suppress(csv.Error):
        rows.extend(islice((cells for cells in _reader(text, form) if cells), _LOOKED_AT))
    return rows


def _tabs_are_quoted(text: str) -> bool:
    """Whether quotes in a table with tabs hold cells together: nobody writes it so by chance.

    That is if all titles are quoted, or if a writer that quotes what needs it would write the same bytes.
    """
    if '"' not in text:
        return False
    titles = text[: text.find("\n")].strip("\r").split("\t")
    if all(len(title) > 1 and title.startswith('"') and title.endswith('"') for title in titles):
        return True
    form = _Form("\t", quoted=True)
    copy = io.StringIO(newline="")
    writer = csv.writer(copy, delimiter="\t", lineterminator="\n")
    try:
        writer.writerows(_reader(text, form))
    except csv.Error:
        return False
    return copy.getvalue().rstrip("\n") == text.replace("\r\n", "\n").rstrip("\n")


def _is_header(cells: Sequence[str]) -> bool:
    """Does a first row name two columns that are known here, or its text among names that are not numbers?"""
    known = [title for title in map(plain_title, cells) if title in _MEANT]
    if len(known) >= min(2, len(cells)):
        return True
    return any(title in COLUMNS["text"] for title in known) and all(number_in(cell) is None for cell in cells)


def _guessed(path: Path, cells: Sequence[str], text: str, form: _Form) -> list[str]:
    """The columns of a table without a known header, from its first rows. Raises InputError where they do not tell."""
    rows = [row for row in _first_rows(text, form) if len(row) == len(cells)]
    if len(cells) > 1 and _is_unknown_header(rows):
        raise InputError(f"{path}: its columns are not known: {listed(cells)}; there must be {FORMS}")
    if len(cells) == 1:
        return ["text"]
    if len(cells) == 2:
        if _is_label_first(rows):
            raise InputError(
                f"{path}: what would be its labels differ from row to row, what would be its texts come back: "
                "label first? give it a first line: label, text"
            )
        return ["text", "label"]
    if len(cells) == 3:
        numbers = [index for index, cell in enumerate(cells) if number_in(cell) is not None]
        if len(numbers) == 1:
            names = ["sentence1", "sentence2"]
            names.insert(numbers[0], "score")
            return names
    raise InputError(f"{path}: its columns are not known; give it a first line that names them: {FORMS}")


def _is_unknown_header(rows: Sequence[Sequence[str]]) -> bool:
    """Words above a column of numbers, or above one whose other cells all come back."""
    first, rest = rows[0], rows[1:]
    if not rest or any(number_in(cell) is not None for cell in first):
        return False
    for title, *cells in zip(first, *rest, strict=True):
        if all(number_in(cell) is not None for cell in cells):
            return True
        count = Counter(cells)
        if len(rest) >= _TELLING and title not in count and min(count.values()) > 1:
            return True
    return False


def _is_label_first(rows: Sequence[Sequence[str]]) -> bool:
    """The first cells are few and short, the second ones differ and are longer."""
    if len(rows) < _TELLING:
        return False
    first, second = ([cells[place] for cells in rows] for place in (0, 1))
    few, many = len(set(first)), len(set(second))
    return few <= len(rows) // 2 and many > 0.8 * len(rows) and sum(map(len, first)) < sum(map(len, second))
