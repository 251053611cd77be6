"""Data specs for texts: `zoo:NAME`, `datasets:NAME`, a file or a folder of them, and which part is for what."""

from __future__ import annotations

import importlib.util
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from compress.data.classes import class_number, number_in
from compress.data.pairs.line_files import is_line_pairs, read_line_pairs
from compress.data.seen import fingerprint
from compress.data.sources import Part
from compress.data.splits import EVALUATED, TRAIN, balanced, halves, part_named
from compress.data.text_dataset import TextDataset, classes_of
from compress.data.text_files import SUFFIXES, kind_of, read_rows, row_of, written
from compress.data.texts.questions import question_row
from compress.data.texts.rows import Row
from runtime.files import user_path
from targets.errors import EnvironmentLacks, InputError

_ZOO = Path(__file__).parent.parent / "zoo" / "text"
_FORMS = (
    f"zoo:NAME, datasets:NAME, a file ({' '.join(SUFFIXES)}), a folder with train and test files, or "
    "FOLDER#de-en for line-aligned train.de and train.en"
)


def load_texts(
    spec: str,
    *,
    part: Part | Literal["all"] = "all",
    limit: int | None = None,
    seed: int = 0,
    skip_corrupt: bool = False,
) -> TextDataset:
    """The texts that `spec` names.

    `spec`: `zoo:NAME`; a .tsv, .csv, .jsonl or .txt file (also .gz); a folder with `train.*` and `test.*` (else
    `dev.*`, `val.*`) of those; `FOLDER#SOURCE-TARGET` for line-aligned files such as train.de and train.en;
    `datasets:NAME` or `datasets:NAME#CONFIG` where the `datasets` package is installed.
    `part`: "evaluation" and "healing" never share a text. They are the data's own sets where it has two, otherwise two
    seeded halves of each class; texts of the evaluation part are then left out of the other.
    `limit`: the most samples, evenly over the classes, seeded. `skip_corrupt`: leave out what cannot be used.
    Raises InputError for a spec or data that cannot be used, EnvironmentLacks where a package is missing.
    """
    location, everything, cut = _files(spec)
    evaluation, healing = (everything[:cut], everything[cut:]) if cut else _halves(everything, seed)
    names, numbers = classes_of(everything)
    fresh = _without_copies(healing, evaluation)
    rows = {"evaluation": evaluation, "healing": fresh, "all": everything}[part]
    if skip_corrupt:
        rows = [row for row in rows if row.fault is None]
    copies = f"{len(healing) - len(fresh)} training texts left out: the evaluation set has them too"
    notes = (copies,) if part == "healing" and len(fresh) < len(healing) else ()
    dataset = TextDataset(location, tuple(rows), names, numbers, notes)
    if limit is not None and limit < len(dataset):
        groups = dataset.labels if dataset.labelled and names else np.zeros(len(dataset), np.int64)
        dataset = dataset.subset(balanced(groups, dataset.names, limit, seed))
    if not len(dataset):
        use = "" if part == "all" else f" for {part}"
        raise InputError(f"{spec} has no texts{use}{f' ({copies})' if notes else ''}; give more")
    return dataset


def _files(spec: str) -> tuple[Path, list[Row], int]:
    """Where the texts are, all of them, and how many of the first are the data's evaluation set (0: it has none)."""
    if spec.startswith("datasets:"):
        return _from_package(spec.removeprefix("datasets:"))
    if is_line_pairs(spec):
        location, pairs = read_line_pairs(spec)
        return location, *_joined(next((pairs[name] for name in EVALUATED if name in pairs), None), pairs.get(TRAIN))
    path = _zoo(spec.removeprefix("zoo:")) if spec.startswith("zoo:") else user_path(spec)
    if path.is_file() and kind_of(path):
        return path, read_rows(path), 0
    if not path.exists():
        raise InputError(f"no texts at {spec}; give {_FORMS}")
    if not path.is_dir():
        raise InputError(f"{spec} is not a data set of texts; give {_FORMS}")
    evaluation = next((found for name in EVALUATED if (found := _file(path, name))), None)
    healing = _file(path, TRAIN)
    if evaluation is None and healing is None:
        raise InputError(f"{path} has no file train or test ({' '.join(SUFFIXES)}); give {_FORMS}")
    sets = [read_rows(file) if file else None for file in (evaluation, healing)]
    return path, *_joined(*sets)


def _joined(evaluation: list[Row] | None, healing: list[Row] | None) -> tuple[list[Row], int]:
    """Both sets in one list and where the second begins; 0 where there is one set only."""
    return [*(evaluation or []), *(healing or [])], len(evaluation) if evaluation and healing else 0


def zoo_names() -> list[str]:
    """The embedded data sets of texts."""
    return sorted(path.name for path in _ZOO.iterdir() if path.is_dir())


def _zoo(name: str) -> Path:
    if name not in zoo_names():
        from compress.spec import unknown

        raise InputError(unknown("zoo data set of texts", name, zoo_names()))
    return _ZOO / name


def _file(folder: Path, part: str) -> Path | None:
    """The one file of that part, whatever its suffix. Raises InputError if there are several."""
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror}; check its permissions") from error
    found = [path for path in paths if part_named(path.name.split(".")[0]) == part and kind_of(path)]
    if len(found) > 1:
        raise InputError(f"{folder} has {' and '.join(path.name for path in found)}; keep one of them")
    return found[0] if found else None


def _without_copies(rows: Sequence[Row], others: Sequence[Row]) -> list[Row]:
    """The rows less those with a text that the others have too, however it is spaced and cased."""
    seen = {_plain(text) for row in others for text in row.texts} - {""}
    return [row for row in rows if seen.isdisjoint(map(_plain, row.texts))]


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _halves(rows: Sequence[Row], seed: int) -> tuple[list[Row], list[Row]]:
    """Two seeded halves of each class; equal texts stay on one side, and so do the pairs of one first text, such as
    the passages of a query. Labels with fractions are not classes."""
    given = {row.label for row in rows if row.label is not None}
    parts = any(class_number(label) is None and number_in(label) is not None for label in given)
    numbers = {} if parts else classes_of(rows)[1]
    labels = np.array([numbers.get(row.label or "", -1) for row in rows], np.int64)
    contents = [fingerprint("\0".join(row.texts).encode()) for row in rows]
    groups = [fingerprint(_plain(row.texts[0]).encode()) for row in rows]
    sides = halves(labels, contents, groups, seed)
    evaluation, healing = ([rows[index] for index in side] for side in sides)
    return evaluation, healing


def _from_package(name: str) -> tuple[Path, list[Row], int]:
    """A data set of the `datasets` package, in its own splits."""
    if importlib.util.find_spec("datasets") is None:
        raise EnvironmentLacks("datasets:NAME needs the package datasets; pip install datasets")
    import datasets

    path, _, config = name.partition("#")
    try:
        splits = datasets.load_dataset(path, config or None)
    except (OSError, ValueError) as error:  # not found, no network, no such configuration
        raise InputError(f"datasets:{name} cannot be loaded: {str(error).splitlines()[0]}") from error
    found = {split: _package_rows(split, splits[split]) for split in ("test", "validation", TRAIN) if split in splits}
    if not found:
        raise InputError(f"datasets:{name} has the splits {', '.join(splits)}; there must be train or test")
    held = [found[split] for split in ("test", "validation") if split in found]
    answered = (rows for rows in held if any(row.label is not None or row.score is not None for row in rows))
    return Path(name), *_joined(next(answered, held[0] if held else None), found.get(TRAIN))


def _package_rows(split: str, table: Any) -> list[Row]:
    """The rows of a split. The package writes -1 for a label that is kept secret, as those of many test sets are."""
    rows = [
        question_row(f"{split}:{index}", record)
        or row_of(f"{split}:{index}", table.column_names, [written(value) for value in record.values()])
        for index, record in enumerate(table)
    ]
    return [replace(row, label=None) if row.label == "-1" else row for row in rows]
