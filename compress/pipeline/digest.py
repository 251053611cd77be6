"""Digests of everything that a stage's result depends on: values, source code, library versions.

All digests are hex SHA-256.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Iterable, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from compress.pipeline.errors import GraphError
from compress.pipeline.tree import digest_tree
from runtime.files import sha256_of
from targets.errors import EnvironmentLacks

__all__ = ["digest_code", "digest_of", "digest_tree", "library_versions"]


def digest_of(value: Any) -> str:
    """Digest of a JSON-able value; the order of keys does not matter, and tuples equal lists.

    Raises TypeError for what JSON cannot hold (also keys that are no strings), ValueError for NaN and infinities.
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


def digest_code(names: Iterable[str]) -> str:
    """Digest of the source files of dotted modules; a package stands for every `.py` file below it.

    Nothing is imported, so heavy packages cost only the reading of their files.
    Raises GraphError for a module that has no file.
    """
    return digest_of({name: _digest_module(name) for name in names})


def _digest_module(name: str) -> dict[str, str]:
    """Path (relative to the package, or the file's name) -> digest, for each source file of the module."""
    if name == "__main__":
        return _digest_main()
    spec = _find_spec(name)
    if spec is None:
        raise GraphError(f"no source file found for the module {name}: its version cannot be part of a key")
    if spec.submodule_search_locations is None:
        if spec.origin is None or not Path(spec.origin).is_file():
            raise GraphError(f"the module {name} has no file: its version cannot be part of a key")
        return {Path(spec.origin).name: sha256_of(Path(spec.origin))}
    folders = [Path(location) for location in spec.submodule_search_locations]
    return {path.relative_to(folder).as_posix(): sha256_of(path) for folder in folders for path in folder.rglob("*.py")}


def _digest_main() -> dict[str, str]:
    path = getattr(sys.modules["__main__"], "__file__", None)
    if path is None:
        raise GraphError("a stage is defined at the prompt, so its code has no version: put it into a module")
    return {"__main__": sha256_of(Path(path))}


def _find_spec(name: str) -> ModuleSpec | None:
    """The module's spec. Unlike `importlib.util.find_spec`, this does not import the parent packages."""
    spec: ModuleSpec | None = None
    search: list[str] | None = None
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        spec = _find_one(".".join(parts[:end]), search)
        if spec is None:
            return None
        search = spec.submodule_search_locations
        if search is None and end < len(parts):
            return None
    return spec


def _find_one(name: str, search: list[str] | None) -> ModuleSpec | None:
    for finder in sys.meta_path:
        spec = finder.find_spec(name, search)
        if spec is not None:
            return spec
    return None


def library_versions(names: Iterable[str]) -> dict[str, str]:
    """Installed version of each distribution. Raises EnvironmentLacks for one that is not installed."""
    return {name: _version(name) for name in sorted(names)}


@functools.cache
def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        raise EnvironmentLacks(f"the package {name} is not installed; run: pip install {name}") from None
