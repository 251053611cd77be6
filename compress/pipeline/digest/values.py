"""Digests of values, and library versions. All digests are hex SHA-256."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from typing import Any

from targets.errors import EnvironmentLacks


def digest_of(value: Any) -> str:
    """Digest of a JSON-able value; the order of keys does not matter, and tuples equal lists.

    Raises TypeError for what JSON cannot hold (also keys that are not strings), ValueError for NaN and infinities.
    """
    text = json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    """`value` with mappings as dicts and sequences as lists, so that equal options give equal text."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if not isinstance(value, Mapping):
        raise TypeError(f"{value!r} is a {type(value).__name__}, which JSON cannot hold")
    for key in value:
        if not isinstance(key, str):
            raise TypeError(f"the key {key!r} is a {type(key).__name__}, not a string")
    return {key: _plain(item) for key, item in value.items()}


def library_versions(names: Iterable[str]) -> dict[str, str]:
    """Installed version of each distribution. Raises EnvironmentLacks for one that is not installed."""
    return {name: _version(name) for name in sorted(names)}


@functools.cache
def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        raise EnvironmentLacks(f"the package {name} is not installed; run: pip install {name}") from None
