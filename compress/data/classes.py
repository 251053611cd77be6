"""Classes of a data set matched to those of a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from targets.errors import InputError


def match_classes(location: Path, mine: Sequence[str], named: bool, labels: Sequence[str]) -> np.ndarray | None:
    """The number in `labels` of each class of the data; None where the classes are to be taken in their order.

    Matched by name (case, `_` and `-` aside), by order if no name matches or the data has numbers only (not `named`).
    Raises InputError when the numbers of classes differ, when only some names match (by order would then be wrong), or
    when labels without names exceed the model's.
    """
    if not named and len(mine) > len(labels):
        raise InputError(f"{location}: labels reach {len(mine) - 1} but the model has {len(labels)} classes (from 0)")
    if named and len(mine) != len(labels):
        raise InputError(
            f"{location} has {len(mine)} classes but the model has {len(labels)}; they must be the same, "
            f"not {listed(mine)} against {listed(labels)}"
        )
    number = {_plain(name): index for index, name in enumerate(labels)}
    strangers = [name for name in mine if _plain(name) not in number]
    if not named or len(strangers) == len(mine) or len(number) < len(labels):
        return None
    if strangers:
        raise InputError(
            f"{location}: the model has no class named {listed(strangers)}; "
            f"name the classes as the model does: {listed(labels)}"
        )
    return np.array([number[_plain(name)] for name in mine])


def listed(names: Sequence[str], most: int = 10) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _plain(name: str) -> str:
    return name.casefold().replace("_", " ").replace("-", " ").strip()
