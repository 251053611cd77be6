"""The table of targets: one TOML file per device beside this file."""

from __future__ import annotations

import tomllib
from pathlib import Path

from targets.errors import InputError
from targets.spec import Target
from targets.strict import nearest, read

FOLDER = Path(__file__).parent


def names(folder: Path = FOLDER) -> list[str]:
    """Names of all targets, sorted. Aliases are not among them."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def load(name: str, folder: Path = FOLDER) -> Target:
    """The target of that name or alias.

    Raises InputError if there is none (naming the nearest) or its file is wrong (naming file, key, given, allowed).
    """
    path = folder / f"{name}.toml"
    if name in names(folder):
        return read_file(path)
    known = load_all(folder)
    for target in known:
        if name in target.aliases:
            return target
    choices = [choice for target in known for choice in (target.name, *target.aliases)]
    raise InputError(f"unknown target {name!r}; allowed: {', '.join(choices)}{nearest(name, choices)}")


def load_all(folder: Path = FOLDER) -> list[Target]:
    """Every target, sorted by name. Raises InputError if two claim one name or alias."""
    targets = [read_file(folder / f"{name}.toml") for name in names(folder)]
    owners: dict[str, str] = {}
    for target in targets:
        for label in (target.name, *target.aliases):
            if label in owners:
                raise InputError(f"targets {owners[label]} and {target.name} both claim the name {label!r}; rename one")
            owners[label] = target.name
    return targets


def read_file(path: Path) -> Target:
    """The target in one TOML file; its name is the file's name. Raises InputError."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name}: not valid TOML: {error}") from error
    return read(Target, table, path.name, fixed={"name": path.stem})
