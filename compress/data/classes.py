"""Classes of a data set matched to those of a model."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from targets.errors import InputError

#: With more different labels than this it is not a classification.
MOST_CLASSES = 1000
#: Characters of one name, and of all names together, that a message shows; characters of a note.
_NAME, _NAMES, _NOTE = 40, 140, 280


@dataclass(frozen=True)
class Matching:
    """`numbers`: the model's class of each class of the data. `notes`: the whole mapping, in lines, where it is not by
    exact name."""

    numbers: tuple[int, ...]
    notes: tuple[str, ...] = ()


def match_classes(location: Path, mine: Sequence[str], labels: Sequence[str]) -> Matching:
    """The number in `labels` of each class of the data.

    Matched by exact name, else by name with case, `_`, `-` and the way of writing a number aside, else, if no name
    matches, by order. Raises InputError when the numbers of classes differ, when only some names match (by order would
    then be wrong), or when a name stands for two of the model's classes.
    """
    if len(mine) != len(labels):
        raise InputError(
            f"{location} has {len(mine)} classes but the model has {len(labels)}; they must be the same, "
            f"not {listed(mine)} against {listed(labels)}"
        )
    if tuple(mine) == tuple(labels):
        return Matching(tuple(range(len(mine))))
    count = Counter(map(plain, labels))
    strangers = [name for name in mine if plain(name) not in count]
    if len(strangers) == len(mine):
        how = "no class of the data is a name of the model's, so they are taken in order"
        return _told(how, mine, labels, range(len(mine)))
    if strangers:
        raise InputError(
            f"{location}: the model has no class named {listed(strangers)}; "
            f"name the classes as the model does: {listed(labels)}"
        )
    exact = {name: index for index, name in enumerate(labels)}
    if twice := [name for name in mine if count[plain(name)] > 1 and name not in exact]:
        raise InputError(f"{location}: {listed(twice)} may stand for two of the model's classes: {listed(labels)}")
    number = {plain(name): index for index, name in enumerate(labels)}
    numbers = [exact.get(name, number[plain(name)]) for name in mine]
    if len(set(numbers)) < len(numbers):
        raise InputError(f"{location}: two of its classes are one of the model's: {listed(mine)}; merge or rename them")
    return _told("classes are matched by name, upper and lower case and signs aside", mine, labels, numbers)


def match_numbers(location: Path, numbers: Sequence[int], labels: Sequence[str]) -> Matching:
    """Labels that are the model's own class numbers, from 0. Raises InputError for those that it does not have."""
    if numbers and max(numbers) >= len(labels):
        raise InputError(f"{location}: labels reach {max(numbers)} but the model has {len(labels)} classes (from 0)")
    return _told("labels are taken for the model's class numbers", [str(one) for one in numbers], labels, numbers)


def _told(how: str, mine: Sequence[str], labels: Sequence[str], numbers: Sequence[int]) -> Matching:
    """The matching, and every pair of it whose names differ, in lines that are not too long."""
    pairs = [
        f"{shortened(name)} as {shortened(labels[place])}"
        for name, place in zip(mine, numbers, strict=True)
        if name != labels[place] and plain(name) != _numbered(labels[place], place)
    ]
    notes: list[str] = []
    for pair in pairs:
        if notes and len(notes[-1]) + len(pair) + 2 <= _NOTE:
            notes[-1] += f", {pair}"
        else:
            notes.append(f"{how}: {pair}")
    return Matching(tuple(numbers), tuple(notes))


def _numbered(label: str, place: int) -> str | None:
    """The number that a name which says nothing else (LABEL_3) stands for."""
    return str(place) if label == f"LABEL_{place}" else None


def in_order(names: set[str]) -> tuple[str, ...]:
    """Names as people sort them: numbers by value, also those within names, so that class10 comes after class9."""
    return tuple(sorted(names, key=_place))


def _place(name: str) -> tuple[object, ...]:
    value = number_in(name)
    if value is not None:
        return 0, value, name
    pieces = re.split(r"(\d+)", name)  # text and digits in turns
    return 1, [(piece, 0) if place % 2 == 0 else ("", _value(piece)) for place, piece in enumerate(pieces)], name


def _value(digits: str) -> tuple[int, str]:
    """Orders digits by value, however many there are."""
    plain_digits = digits.lstrip("0")
    return len(plain_digits), plain_digits


def number_in(text: str) -> float | None:
    """The number that a text is; None for any other text, for NaN and infinities."""
    if "_" in text:  # Python's own way of writing numbers, nobody else's
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def class_number(label: str) -> int | None:
    """The whole number of 0 or more that a label is, however it is written: 3, 03, 3.0."""
    value = number_in(label)
    return int(value) if value is not None and value >= 0 and value.is_integer() else None


def plain(name: str) -> str:
    """A name without what people write in more than one way: case, `_` and `-`, and 1.0 for 1."""
    number = class_number(name)
    if number is not None:
        return str(number)
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def listed(names: Sequence[str], most: int = 10) -> str:
    """The first names, none of them whole if it is long, and how many more there are."""
    shown: list[str] = []
    for name in names[:most]:
        if shown and sum(map(len, shown)) + len(name) > _NAMES:
            break
        shown.append(shortened(name))
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return ", ".join(shown) + more


def shortened(name: str) -> str:
    """A name or a text as a message shows it: its beginning, in one line."""
    line = " ".join(name.split())
    return line if len(line) <= _NAME else f"{line[: _NAME - 4]} ..."
