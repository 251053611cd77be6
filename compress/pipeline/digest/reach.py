"""The code that a function may run: the files of this project that it can reach, found in their source.

Nothing is imported, so heavy packages cost only the reading of their files. The search goes by names and errs on the
side of too much:

* A module that is imported runs its top level, and so do the packages around it.
* A function of an imported module may run as soon as reached code mentions its name, a method as soon as its name
  stands behind a dot, of whatever object. Methods with two underscores and decorated functions (which are handed to the
  decorator) may always run, and so may all methods of a class that derives from a library's, such as a torch module's
  `forward`.
* A package that lists its own folder (`pkgutil.iter_modules`, `import_all`) imports all that is in it. A text that is a
  module's name (`python -m runtime.bench`) and files at `Path(__file__).parent / "name"` count too.

What is imported for typing only runs nothing.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.pipeline.digest.memo import read_memo, write_memo
from compress.pipeline.digest.scan import Said, Source, scan, version
from compress.pipeline.errors import GraphError

#: The packages of this project; the one that a function itself is in belongs to them.
PACKAGES = ("compress", "export", "runtime", "targets")
#: It runs every stage and decides nothing that is in an artifact; how it keeps one has a number in the key.
_RUNNER = "compress.pipeline"
#: Bases outside the project that call none of a subclass's plain methods.
_PASSIVE = {
    *("ABC", "Protocol", "Generic", "NamedTuple", "TypedDict", "BaseModel", "object", "type"),
    *("Enum", "StrEnum", "IntEnum"),
}


@dataclass(frozen=True)
class _Place:
    """Where a module is: its own file (a folder may have none), and the folder of what is in it."""

    file: Path | None
    folder: Path | None


class Code:
    """The project's source, read once: what is edited later is not what this process has loaded.

    `memo` names a file that remembers what each source file of a digest says, so that the next process need not parse
    it again; see `remember`.
    """

    def __init__(self, memo: Path | None = None) -> None:
        self._places: dict[str, _Place | None] = {}
        self._sources: dict[Path, tuple[str, Source]] = {}
        self._memo = memo
        written = read_memo(memo) if memo is not None else {}
        self._known: dict[str, list[Any]] = written["files"] if written.get("version") == version() else {}
        self._parsed: dict[str, list[Any]] = {}

    def reached(self, function: Any) -> dict[str, str]:
        """Module, or data file -> SHA-256, of all that a function (or the class of a callable object) may run.

        Raises GraphError for one that was not read from a file.
        """
        module = _module_name(function.__module__)
        place = self.place(module)
        if place is None or place.file is None:
            raise GraphError(
                f"the module {function.__module__} has no source file: its version cannot be part of a key"
            )
        reach = _Reach(self, {*PACKAGES, module.partition(".")[0]})
        reach.visit(module)
        parts = function.__qualname__.split(".")
        reach.mention({"main", *parts, *(f".{part}" for part in parts)})
        reach.grow()
        return dict(sorted(reach.files.items()))

    def place(self, module: str) -> _Place | None:
        """None if there is no such module. Unlike `importlib.util.find_spec`, this imports no package around it."""
        if module not in self._places:
            self._places[module] = self._find(module)
        return self._places[module]

    def source(self, file: Path) -> tuple[str, Source]:
        """SHA-256 of a source file, and what it says."""
        if file not in self._sources:
            text = file.read_bytes()
            digest, (known, written) = hashlib.sha256(text).hexdigest(), self._known.get(str(file), ("", []))
            if digest == known:
                self._sources[file] = digest, Source.read(written)
            else:
                self._sources[file] = digest, scan(text)
                self._parsed[str(file)] = [digest, self._sources[file][1].written()]
        return self._sources[file]

    def remember(self) -> None:
        """Write what was parsed to the memo."""
        if self._memo is not None and self._parsed:
            files = dict(sorted({**self._known, **self._parsed}.items()))
            write_memo(self._memo, {"version": version(), "files": files})

    def _find(self, module: str) -> _Place | None:
        package, _, name = module.rpartition(".")
        if not package:
            return _top_level(name)
        around = self.place(package)
        if around is None or around.folder is None:
            return None
        file, folder = around.folder / f"{name}.py", around.folder / name
        if (folder / "__init__.py").is_file():
            return _Place(folder / "__init__.py", folder)
        return _Place(file, None) if file.is_file() else None


class _Reach:
    """Grows from a module until nothing new is found."""

    def __init__(self, code: Code, packages: set[str]) -> None:
        self.files: dict[str, str] = {}
        self._code = code
        self._packages = packages
        self._names: set[str] = set()
        self._seen: set[str] = set()
        self._sources: dict[str, Source] = {}
        self._functions: dict[str, list[tuple[str, Said]]] = {}

    def grow(self) -> None:
        """Mention the methods that libraries may call, until that leads to nothing new."""
        size = -1
        while size != len(self._names) + len(self._sources):
            size = len(self._names) + len(self._sources)
            classes = [one for source in self._sources.values() for one in source.classes.items()]
            bases: dict[str, frozenset[str]] = {}
            for name, (above, _) in classes:
                bases[name] = bases.get(name, frozenset()) | above
            for name, (_, methods) in classes:
                if _derives_from_a_library(name, bases):
                    self.mention(methods)

    def mention(self, names: Collection[str]) -> None:
        """Functions of these names may run, in modules imported now or later."""
        for name in set(names) - self._names:
            self._names.add(name)
            for module, said in tuple(self._functions.get(name, ())):
                self._follow(module, said)

    def visit(self, module: str) -> None:
        """A module is imported, if there is one of that name in the project."""
        if module in self._seen:
            return
        self._seen.add(module)
        if module.partition(".")[0] not in self._packages or f"{module}.".startswith(f"{_RUNNER}."):
            return
        place = self._code.place(module)
        if place is None:
            return
        if "." in module:
            self.visit(module.rpartition(".")[0])
        if place.file is None:
            return
        self.files[module], source = self._code.source(place.file)
        self._sources[module] = source
        self._follow(module, source.top)
        for name, said in source.functions.items():
            self._functions.setdefault(name, []).append((module, said))
            if name in self._names:
                self._follow(module, said)

    def _follow(self, module: str, said: Said) -> None:
        """This code of a module may run."""
        place = self._code.place(module)
        assert place is not None and place.file is not None
        for name in said.modules:
            self.visit(name)
        if said.lists and place.folder is not None:
            for member in place.folder.iterdir():
                self.visit(f"{module}.{member.stem}")
        for name in said.data:
            self._keep(place.file.parent / name)
        self.mention(said.names)

    def _keep(self, path: Path) -> None:
        """Data beside a module: a file, or all files of a folder."""
        for file in path.rglob("*") if path.is_dir() else [path]:
            if file.is_file() and file.suffix not in (".py", ".pyc"):
                name = f"{path.parent.name}/{file.relative_to(path.parent).as_posix()}"
                self.files[name] = hashlib.sha256(file.read_bytes()).hexdigest()


def _derives_from_a_library(
    name: str, bases: Mapping[str, frozenset[str]], below: frozenset[str] = frozenset()
) -> bool:
    if name not in bases:
        return name not in _PASSIVE
    return any(_derives_from_a_library(one, bases, below | {name}) for one in bases[name] - below - {name})


def _module_name(module: str) -> str:
    """The name under which a module can be found: that of a script is `__main__` while it runs."""
    spec = getattr(sys.modules.get(module), "__spec__", None)
    return spec.name if module == "__main__" and spec is not None else module


def _top_level(name: str) -> _Place | None:
    if name == "__main__":
        script = getattr(sys.modules[name], "__file__", None)
        return None if script is None else _Place(Path(script), None)
    for finder in sys.meta_path:
        spec = finder.find_spec(name, None)
        if spec is None:
            continue
        folders = spec.submodule_search_locations
        file = Path(spec.origin) if spec.origin is not None and Path(spec.origin).is_file() else None
        return _Place(file, Path(next(iter(folders))) if folders else None)
    return None
