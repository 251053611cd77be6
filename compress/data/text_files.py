"""Texts from files: .tsv and .csv (with a header or without), .jsonl, .txt, each also as .gz."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.texts.text import is_unicode
from targets.errors import InputError

SUFFIXES = (".tsv", ".csv", ".jsonl", ".txt")
#: Names of columns, by what they hold.
COLUMNS: dict[str, tuple[str, ...]] = {
    "text": ("text", "sentence", "content", "document", "review"),
    "label": ("label", "labels", "class", "category", "sentiment"),
    "first": ("sentence1", "sentence_1", "sentence_a", "text1", "first"),
    "second": ("sentence2", "sentence_2", "sentence_b", "text2", "second"),
    "score": ("score", "similarity", "relatedness_score", "gold"),
}
_MEANT = {name for names in COLUMNS.values() for name in names}
_FORMS = "columns text (and label), or sentence1, sentence2 (and score)"


@dataclass(frozen=True)
class Row:
    """One text or a pair of them. `name`: file and line, for messages. `fault`: why it cannot be used."""

    name: str
    texts: tuple[str, ...]
    label: str | None = None
    score: float | None = None
    fault: str | None = None


def kind_of(path: Path) -> str | None:
    """The suffix that says how a file is read, `.gz` aside; None for a file that holds no texts."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    return suffixes[-1] if suffixes and suffixes[-1] in SUFFIXES else None


def read_rows(path: Path) -> list[Row]:
    """The rows of a file, in order. Raises InputError that names the line where the file as a whole is wrong."""
    text = _decoded(path)
    read = {".txt": _paragraphs, ".jsonl": _objects, ".csv": _table, ".tsv": _table}[kind_of(path) or ".txt"]
    rows = list(read(path, text))
    if not rows:
        raise InputError(f"{path} holds no texts; name another file")
    return rows


def _decoded(path: Path) -> str:
    """The file as text. Raises InputError that names the line of the first byte that is not UTF-8."""
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix.lower() == ".gz" else data
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (EOFError, zlib.error) as error:
        raise InputError(f"{path}: damaged or truncated: {error}; fetch it again") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not valid UTF-8; convert the file to UTF-8"
        ) from error


def _paragraphs(path: Path, text: str) -> Iterator[Row]:
    """Paragraphs between blank lines; in a file without blank lines, its lines."""
    lines = _lines(text)
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


def _lines(text: str) -> list[str]:
    """What editors and `wc` count as lines; other separators, such as U+2028, are characters of a text."""
    return text.replace("\r\n", "\n").split("\n")


def _objects(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(_lines(text), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}: not valid JSON: {error.msg}") from error
        except RecursionError as error:
            raise InputError(f"{path}, line {number}: nested too deeply; give an object with {_FORMS}") from error
        if not isinstance(value, dict):
            raise InputError(f"{path}, line {number}: a {type(value).__name__}; give an object with {_FORMS}")
        meant = {key: item for key, item in value.items() if _title(key) in _MEANT}
        nested = next((key for key, item in meant.items() if isinstance(item, list | dict)), None)
        if nested is not None:
            raise InputError(f"{path}, line {number}: {nested} is a {type(value[nested]).__name__}; give one text")
        broken = next((key for key, item in meant.items() if isinstance(item, str) and not is_unicode(item)), None)
        if broken is not None:
            raise InputError(
                f"{path}, line {number}: {broken} has half a character (\\ud800 to \\udfff); write it whole"
            )
        yield row_of(f"{path.name}:{number}", list(value), [written(item) for item in value.values()])


def _table(path: Path, text: str) -> Iterator[Row]:
    """The rows of a table. Without a header: text; text and label; sentence1, sentence2 and score in any order."""
    stream = io.StringIO(text, newline="")
    tabs = kind_of(path) == ".tsv"
    reader = csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.reader(stream, strict=True)
    csv.field_size_limit(1 << 24)
    header: Sequence[str] | None = None
    line = 1
    try:
        for cells in reader:
            number, line = line, reader.line_num + 1
            if not cells:
                continue
            if header is None:
                titled = _is_header(cells)
                header = cells if titled else _guessed(path, cells)
                if titled:
                    continue
            if len(cells) != len(header):
                advice = "quotes keep no tab in its text, so give .csv or .jsonl" if tabs else "quote texts with commas"
                raise InputError(
                    f"{path}, line {number}: {len(cells)} columns, the first line has {len(header)}; {advice}"
                )
            yield row_of(f"{path.name}:{number}", header, cells)
    except csv.Error as error:
        raise InputError(
            f"{path}, line {line}: {error}; close each quoted text, and double the quotes in it"
        ) from error


def _is_header(cells: Sequence[str]) -> bool:
    """Does a first row name two columns that are known here, or its text among names that are no numbers?"""
    known = [title for title in map(_title, cells) if title in _MEANT]
    if len(known) >= min(2, len(cells)):
        return True
    return any(title in COLUMNS["text"] for title in known) and all(_number(cell) is None for cell in cells)


def _title(cell: str) -> str:
    return cell.strip().casefold()


def _guessed(path: Path, cells: Sequence[str]) -> list[str]:
    """The columns of a table without a header, from its first row."""
    if len(cells) == 1:
        return ["text"]
    if len(cells) == 2:
        return ["text", "label"]
    if len(cells) == 3:
        numbers = [index for index, cell in enumerate(cells) if _number(cell) is not None]
        if len(numbers) == 1:
            names = ["sentence1", "sentence2"]
            names.insert(numbers[0], "score")
            return names
    raise InputError(f"{path}: its columns are not known; give it a first line that names them: {_FORMS}")


def row_of(name: str, header: Sequence[str], cells: Sequence[str]) -> Row:
    """A row from cells under a header; columns that say nothing here are left out. Raises InputError."""
    titles = [_title(title) for title in header]
    places = {
        meaning: next((titles.index(title) for title in names if title in titles), None)
        for meaning, names in COLUMNS.items()
    }
    record = {meaning: cells[place].strip() for meaning, place in places.items() if place is not None}
    pair = {"first", "second"} <= record.keys()
    if not pair and "text" not in record:
        raise InputError(f"{name}: columns {', '.join(header)}; there must be {_FORMS}")
    texts = (record["first"], record["second"]) if pair else (record["text"],)
    score = record.get("score", "")
    number, fault = _number(score), None
    if not all(texts):
        fault = "the text is empty"
    elif score and number is None:
        fault = f"the score {score!r} is no number"
    return Row(name, texts, record.get("label") or None, number, fault)


def written(value: object) -> str:
    """A value as a table has it: nothing is an empty cell."""
    return "" if value is None else str(value)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
