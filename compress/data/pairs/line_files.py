"""Line-aligned files of a source and a target language: line n of train.de is line n of train.en."""

from __future__ import annotations

import re
from pathlib import Path

from compress.data.classes import listed
from compress.data.splits import part_named
from compress.data.text_files import decoded, lines_of
from compress.data.texts.rows import Row
from runtime.files import user_path
from targets.errors import InputError

_SPEC = re.compile(r"(?P<folder>.+)#(?P<source>[\w]+)-(?P<target>[\w]+)")


def is_line_pairs(spec: str) -> bool:
    """Does it name two languages of a folder: FOLDER#de-en?"""
    return _SPEC.fullmatch(spec) is not None and not spec.startswith(("zoo:", "datasets:"))


def read_line_pairs(spec: str) -> tuple[Path, dict[str, list[Row]]]:
    """The folder, and the pairs of each of its parts (train, test, validation). Raises InputError for a file without
    its partner, and for two files of different length, which names the first line that has none."""
    found = _SPEC.fullmatch(spec)
    assert found is not None
    folder, ends = user_path(found["folder"]), (found["source"], found["target"])
    if not folder.is_dir():
        raise InputError(
            f"no folder {folder}; give FOLDER#{ends[0]}-{ends[1]} with train.{ends[0]} and train.{ends[1]}"
        )
    sides = [_files(folder, end) for end in ends]
    parts = sorted(sides[0].keys() | sides[1].keys())
    if not parts:
        names = ", ".join(f"{part}.{end}" for part in ("train", "test") for end in ends)
        raise InputError(f"{folder} has none of {names}; name the files so (.gz may follow)")
    for part in parts:
        for mine, other in ((0, 1), (1, 0)):
            if part not in sides[mine]:
                raise InputError(f"{folder} has {sides[other][part].name} and no {part}.{ends[mine]} to go with it")
    return folder, {part: _pairs(sides[0][part], sides[1][part]) for part in parts}


def _files(folder: Path, end: str) -> dict[str, Path]:
    """The file of each part in one language. Raises InputError where a part has several."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        name = path.name.removesuffix(".gz")
        part = part_named(name.removesuffix(f".{end}")) if name.endswith(f".{end}") else None
        if part in found:
            raise InputError(f"{folder} has {listed([found[part].name, path.name])} for {part}; keep one of them")
        if part is not None:
            found[part] = path
    return found


def _pairs(source: Path, target: Path) -> list[Row]:
    sides = [lines_of(decoded(path)) for path in (source, target)]
    sides = [lines[:-1] if lines and not lines[-1] else lines for lines in sides]
    counts = [len(lines) for lines in sides]
    if counts[0] != counts[1]:
        longer, shorter = (source, target) if counts[0] > counts[1] else (target, source)
        raise InputError(
            f"{longer} has {max(counts)} lines and {shorter.name} {min(counts)}: line {min(counts) + 1} of "
            f"{longer.name} has no partner; line n of one file must be line n of the other"
        )
    rows = []
    for number, texts in enumerate(zip(*sides, strict=True), start=1):
        stripped = tuple(text.strip() for text in texts)
        empty = next((path.name for path, text in zip((source, target), stripped, strict=True) if not text), None)
        fault = None if empty is None else f"line {number} of {empty} is empty"
        rows.append(Row(f"{source.name}:{number}", stripped, fault=fault))
    return rows
