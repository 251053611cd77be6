"""The table of targets: one TOML file per device beside this file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from targets.errors import InputError
from targets.spec import Target
from targets.strict import nearest, read
from targets.toml import loads


class Folder(Protocol):
    """A folder of TOML files: on disk or inside a zip."""

    def iterdir(self) -> Any:
        """What is in it."""
        ...

    def __truediv__(self, name: str) -> Any:
        """One file."""
        ...


def _here() -> Folder:
    here = Path(__file__).parent
    if here.is_dir():
        return here
    from importlib.resources import files  # inside a zip; it loads a dozen modules

    folder: Folder = files(str(__package__))
    return folder


FOLDER = _here()
#: What the backends of a file were called before they were files themselves.
_RUNTIMES = ("tensorrt", "onnxruntime")
_ON_GPU = ("ort-tensorrt", "rtx", "cuda")


def names(folder: Folder = FOLDER) -> list[str]:
    """Names of all targets, sorted. Aliases are not among them."""
    return sorted(path.name.removesuffix(".toml") for path in folder.iterdir() if path.name.endswith(".toml"))


def load(name: str, folder: Folder = FOLDER) -> Target:
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


def load_all(folder: Folder = FOLDER) -> list[Target]:
    """Every target, sorted by name. Raises InputError if two claim one name or alias."""
    targets = [read_file(folder / f"{name}.toml") for name in names(folder)]
    owners: dict[str, str] = {}
    for target in targets:
        for label in (target.name, *target.aliases):
            if label in owners:
                raise InputError(f"targets {owners[label]} and {target.name} both claim the name {label!r}; rename one")
            owners[label] = target.name
    return targets


def read_file(path: Any) -> Target:
    """The target in one TOML file; its name is the file's name. Raises InputError."""
    try:
        table = loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # of the syntax or the encoding
        raise InputError(f"{path.name}: not valid TOML: {error}") from error
    return read(Target, _with_backends(table, path.name), path.name, fixed={"name": path.name.removesuffix(".toml")})


def _with_backends(table: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """A file that lists `runtimes`, as all did before backends were listed, means the backends that they stood for."""
    if "runtimes" not in table:
        return table
    if "backends" in table:
        raise InputError(f"{where}: key 'runtimes': the old name of 'backends', which is there too; remove it")
    given = table["runtimes"]
    odd = [one for one in given if one not in _RUNTIMES] if isinstance(given, list) else [given]
    if odd or not given:
        allowed = ", ".join(_RUNTIMES)
        raise InputError(
            f"{where}: key 'runtimes': given {odd[0] if odd else given!r}, allowed: at least one of {allowed}"
        )
    hardware = table.get("hardware")
    on_gpu = _ON_GPU if isinstance(hardware, Mapping) and hardware.get("compute_capability") else ()
    meant = {"tensorrt": ("tensorrt",), "onnxruntime": (*on_gpu, "cpu")}
    rest = {name: value for name, value in table.items() if name != "runtimes"}
    return {**rest, "backends": list(dict.fromkeys([*(one for name in given for one in meant[name]), "cpu"]))}
