"""Parts of the data that the user's own file names: a CSV with the columns sample and slice."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from compress.data.classes import listed
from compress.verification.slices import Slices
from runtime.files import check_no_pipe
from targets.errors import InputError

_COLUMNS = ["sample", "slice"]


def read(path: Path, names: Sequence[str]) -> Slices:
    """The slices of a file whose samples are names of the data set; a sample may be in several slices.

    Raises InputError for a file that is not like that, or that names samples which the data do not have.
    """
    places = {name: index for index, name in enumerate(names)}
    slices: Slices = {}
    unknown: list[str] = []
    for sample, name in _rows(path):
        if sample in places:
            slices.setdefault(name, np.zeros(len(names), bool))[places[sample]] = True
        else:
            unknown.append(sample)
    if unknown:
        raise InputError(f"{path}: {len(unknown)} samples are not in the data: {listed(unknown)} (it has {names[0]})")
    if not slices:
        raise InputError(f"{path} has no rows below sample,slice")
    return slices


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    check_no_pipe(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read the slices {path}: {error}") from error
    if not lines or lines[0] != _COLUMNS:
        raise InputError(f"{path}: the first line must be {','.join(_COLUMNS)}")
    for number, line in enumerate(lines[1:], 2):
        if len(line) != 2 or not all(line):
            raise InputError(f"{path}, line {number}: expected a sample and a slice, got {','.join(line)!r}")
        yield line[0], line[1]
