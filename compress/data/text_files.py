"""Texts from files: .tsv and .csv (with a header or without), .jsonl, .json (SQuAD), .txt, .conll, each also as .gz."""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from compress.data.classes import listed, number_in, shortened
from compress.data.tables import COLUMNS, FORMS, meant, plain_title, table_rows
from compress.data.texts.questions import ANSWERS, answers_in, question_row, squad_rows
from compress.data.texts.rows import Row
from runtime.files import check_no_pipe
from runtime.texts.text import is_unicode
from targets.errors import InputError

SUFFIXES = (".tsv", ".csv", ".jsonl", ".json", ".txt", ".conll")
#: Keys of words and of a tag for each of them, in .jsonl and in the `datasets` package.
WORDS, TAGS = ("words", "tokens"), ("tags", "ner_tags", "labels")
#: What stands in a column that says whether its title is a label of the text.
MARKS = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
#: Bytes that a file may hold, unpacked.
MOST_BYTES = 1 << 29


def kind_of(path: Path) -> str | None:
    """The suffix that says how a file is read, `.gz` aside; None for a file that holds no texts."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    return suffixes[-1] if suffixes and suffixes[-1] in SUFFIXES else None


def read_rows(path: Path) -> list[Row]:
    """The rows of a file, in order. Raises InputError that names the line where the file as a whole is wrong."""
    text = decoded(path)
    rows = list(_READ[kind_of(path) or ".txt"](path, text))
    if not rows:
        raise InputError(f"{path} holds no texts; name another file")
    return rows


def decoded(path: Path) -> str:
    """The file as text. Raises InputError that names the line of the first byte that is not UTF-8."""
    check_no_pipe(path)
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as stream:
            data = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (EOFError, zlib.error) as error:
        raise InputError(f"{path}: damaged or truncated: {error}; fetch it again") from error
    if len(data) > MOST_BYTES:
        raise InputError(f"{path}: holds more than {MOST_BYTES >> 20} MB of text; give a part of it")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        data = _from_utf16(path, data)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not valid UTF-8; convert the file to UTF-8"
        ) from error


def _from_utf16(path: Path, data: bytes) -> bytes:
    """What spreadsheets save as Unicode text, in UTF-8. Raises InputError."""
    try:
        return data.decode("utf-16").encode()
    except UnicodeError as error:
        raise InputError(f"{path}: it begins as UTF-16 but is not all of it; convert the file to UTF-8") from error


def _paragraphs(path: Path, text: str) -> Iterator[Row]:
    """Paragraphs between blank lines; in a file without blank lines, its lines."""
    lines = lines_of(text)
    whole = any(not line.strip() for line in lines[:-1])
    start, held = 1, list[str]()
    for number, line in enumerate([*lines, ""], start=1):
        if line.strip():
            start = start if held else number
            held.append(line)
            if whole:
                continue
        if held:
            yield Row(f"{path.name}:{start}", ("\n".join(held),))
            held = []


def lines_of(text: str) -> list[str]:
    """What editors and `wc` count as lines; other separators, such as U+2028, are characters of a text."""
    return text.replace("\r\n", "\n").split("\n")


def _objects(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(lines_of(text), start=1):
        if not line.strip():
            continue
        yield _object(path, number, line)


def _object(path: Path, number: int, line: str) -> Row:
    where = f"{path}, line {number}"
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not valid JSON: {error.msg}") from error
    except RecursionError as error:
        raise InputError(f"{where}: nested too deeply; give an object with {FORMS}") from error
    except ValueError as error:  # a number of thousands of digits
        raise InputError(f"{where}: not readable JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{where}: a {type(value).__name__}; give an object with {FORMS}")
    own = _tagged(f"{path.name}:{number}", value) or question_row(f"{path.name}:{number}", value)
    if own is not None:
        return own
    several = _several(value)
    used = {key: item for key, item in value.items() if key != several and (meant(key) or _is_mark(item))}
    nested = next((key for key, item in used.items() if isinstance(item, list | dict)), None)
    if nested is not None:
        raise InputError(f"{where}: {nested} is a {type(value[nested]).__name__}; give one text")
    broken = next((key for key, item in used.items() if isinstance(item, str) and not is_unicode(item)), None)
    if broken is not None:
        raise InputError(f"{where}: {broken} has half a character (\\ud800 to \\udfff); write it whole")
    row = row_of(f"{path.name}:{number}", list(value), [written(used.get(key)) for key in value])
    if several is not None:
        return replace(row, labels=tuple(map(str, value[several])))
    return replace(row, labels=None) if row.label is None else row


def _several(value: dict[str, Any]) -> str | None:
    """The key of a list of labels."""
    names = [key for key, item in value.items() if plain_title(key) in COLUMNS["label"] and isinstance(item, list)]
    return names[0] if names and all(type(one) in (str, int) for one in value[names[0]]) else None


def _is_mark(item: object) -> bool:
    return isinstance(item, int | float) and item in (0, 1)


def tagged_row(name: str, words: Sequence[str], tags: Sequence[str]) -> Row:
    """A text of words that each have a tag."""
    fault = None
    if len(words) != len(tags):
        fault = f"it has {len(words)} words and {len(tags)} tags"
    elif not words or any(not word or len(word.split()) != 1 for word in words):
        fault = "a word is empty or has a space in it"
    return Row(name, (" ".join(words),), fault=fault, tags=tuple(tags))


def _columns(path: Path, text: str) -> Iterator[Row]:
    """CoNLL: a word a line, its tag in the last column; a blank line ends a sentence."""
    held: list[tuple[str, str]] = []
    start = 1
    for number, line in enumerate([*lines_of(text), ""], start=1):
        cells = line.split("\t") if "\t" in line else line.split()
        if cells and cells[0] != "-DOCSTART-":
            start = start if held else number
            held.append((cells[0].strip(), cells[-1].strip()))
            if len(cells) < 2:
                raise InputError(f"{path}, line {number}: {shortened(line)!r} has one column; give a word and its tag")
        elif held:
            yield tagged_row(f"{path.name}:{start}", *zip(*held, strict=True))
            held = []


def _tagged(name: str, value: dict[str, Any]) -> Row | None:
    """The row of an object with words and tags; None where it has none."""
    keys = {key.casefold(): key for key in value}
    words, tags = (next((value[keys[key]] for key in names if key in keys), None) for names in (WORDS, TAGS))
    if not isinstance(words, list) or not isinstance(tags, list):
        return None
    return tagged_row(name, list(map(str, words)), list(map(str, tags)))


def _table(path: Path, text: str) -> Iterator[Row]:
    for line, header, cells in table_rows(path, text, tabs=kind_of(path) == ".tsv"):
        yield row_of(f"{path.name}:{line}", header, cells)


def row_of(name: str, header: Sequence[str], cells: Sequence[str]) -> Row:
    """A row from cells under a header; columns that say nothing here are left out. Raises InputError."""
    titles = [plain_title(title) for title in header]
    places = {
        meaning: next((titles.index(title) for title in names if title in titles), None)
        for meaning, names in COLUMNS.items()
    }
    record = {meaning: cells[place].strip() for meaning, place in places.items() if place is not None}
    pair = {"first", "second"} <= record.keys()
    if not pair and "text" not in record:
        raise InputError(f"{name}: columns {listed(header)}; there must be {FORMS}")
    texts = (record["first"], record["second"]) if pair else (record["text"],)
    score = record.get("score", "")
    number, fault = number_in(score), None
    if not all(texts):
        fault = "the text is empty"
    elif score and number is None:
        fault = f"the score {shortened(score)!r} is not a number"
    marks = tuple(
        (title.strip(), MARKS[cell.strip().casefold()])
        for place, (title, cell) in enumerate(zip(header, cells, strict=True))
        if place not in places.values() and cell.strip().casefold() in MARKS
    )
    return Row(
        name,
        texts,
        record.get("label") or None,
        number,
        fault,
        labels=_parts(record.get("label")),
        marks=marks,
        answers=answers_in(next((cells[titles.index(title)] for title in ANSWERS if title in titles), None)),
    )


def _parts(cell: str | None) -> tuple[str, ...] | None:
    """The labels in a cell, between commas; () in an empty one, None without one."""
    return None if cell is None else tuple(part.strip() for part in cell.split(",")) if cell else ()


def written(value: object) -> str:
    """A value as a table has it: nothing is an empty cell."""
    return "" if value is None else str(value)


_READ: dict[str, Callable[[Path, str], Iterator[Row]]] = {
    ".txt": _paragraphs,
    ".jsonl": _objects,
    ".json": squad_rows,
    ".csv": _table,
    ".tsv": _table,
    ".conll": _columns,
}
