"""What a source file says of the code that it may run, by names; see `reach.py` for how it is used."""

from __future__ import annotations

import ast
import functools
import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Decorators that do not keep the function for somebody else to call.
_PLAIN = {
    *("property", "setter", "cached_property", "cache", "lru_cache", "staticmethod", "classmethod", "abstractmethod"),
    *("override", "overload", "contextmanager", "no_grad", "inference_mode", "dataclass"),
}
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
#: What has variables of its own.
_SCOPES = (*_DEFINITIONS, ast.ClassDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass
class Said:
    """What a piece of code says: the `names` that it mentions (those behind a dot with it: ".load"), the `modules` that
    it may import (candidates; only those that exist count), whether it `lists` the folder of its package, and the
    `data` files beside it that it opens."""

    names: set[str] = field(default_factory=set)
    modules: set[str] = field(default_factory=set)
    lists: bool = False
    data: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, written: list[Any]) -> Said:
        """What `written` gave."""
        names, modules, lists, data = written
        return cls(set(names), set(modules), lists, set(data))

    def written(self) -> list[Any]:
        """For JSON."""
        return [sorted(self.names), sorted(self.modules), self.lists, sorted(self.data)]

    def add(self, other: Said) -> None:
        """Take in what another piece says."""
        self.names |= other.names
        self.modules |= other.modules
        self.lists |= other.lists
        self.data |= other.data


@dataclass(frozen=True)
class Source:
    """A file. `top`: what importing it runs, with the functions that others may call at any time (decorated ones,
    methods with two underscores). `functions`: all others by name (methods by ".name"), those of one name together.
    `classes`: name -> names of its bases and of its methods (".name")."""

    top: Said
    functions: dict[str, Said]
    classes: dict[str, tuple[frozenset[str], frozenset[str]]]

    @classmethod
    def read(cls, written: list[Any]) -> Source:
        """What `written` gave."""
        top, functions, classes = written
        return cls(
            Said.read(top),
            {name: Said.read(said) for name, said in functions.items()},
            {name: (frozenset(bases), frozenset(methods)) for name, (bases, methods) in classes.items()},
        )

    def written(self) -> list[Any]:
        """For JSON."""
        functions = {name: said.written() for name, said in self.functions.items()}
        classes = {name: [sorted(bases), sorted(methods)] for name, (bases, methods) in self.classes.items()}
        return [self.top.written(), functions, classes]


@functools.cache
def version() -> str:
    """Of this file and of Python's parser: scans of another version may say something else."""
    return f"{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()} {sys.version}"


@functools.lru_cache(maxsize=4096)
def scan(text: bytes) -> Source:
    """Read a file's source. Raises SyntaxError."""
    source = Source(Said(), {}, {})
    _scan_body(ast.parse(text).body, source, "")
    return source


def _scan_body(body: list[ast.stmt], source: Source, dot: str) -> None:
    """The statements of a module, or of a class (`dot` is ".")."""
    for node in body:
        if isinstance(node, _DEFINITIONS):
            decorators = [_last_name(one) for one in node.decorator_list]
            for one in (*node.decorator_list, node.args):
                source.top.add(_said(one))
            always = node.name.startswith("__") or any(one not in _PLAIN for one in decorators)
            target = source.top if always else source.functions.setdefault(dot + node.name, Said())
            said, own = Said(), _variables(node)
            for statement in node.body:
                said.add(_said(statement))
            said.names -= own
            target.add(said)
        elif isinstance(node, ast.ClassDef):
            for one in (*node.decorator_list, *node.bases, *node.keywords):
                source.top.add(_said(one))
            methods = frozenset(f".{one.name}" for one in node.body if isinstance(one, _DEFINITIONS))
            source.classes[node.name] = frozenset(map(_last_name, node.bases)), methods
            _scan_body(node.body, source, ".")
        else:
            said = _said(node)
            source.top.add(said)
            source.top.names |= {dot + name for name in said.names}  # a class calls its own methods by their bare names


def _said(tree: ast.AST) -> Said:
    said = Said()
    for node in _running(tree):
        match node:
            case ast.Name(id=name):
                said.names.add(name)
            case ast.Attribute(attr=name):
                said.names |= {name, f".{name}"}
            case ast.Import(names=aliases):
                said.modules |= {alias.name for alias in aliases}
            case ast.ImportFrom(module=str(module), names=aliases):
                said.modules |= {module, *(f"{module}.{alias.name}" for alias in aliases)}
                said.names |= {alias.name for alias in aliases if alias.asname is not None}
            case ast.Constant(value=str(text)) if "." in text and all(map(str.isidentifier, text.split("."))):
                said.modules.add(text)
            case ast.BinOp(left=left, op=ast.Div(), right=ast.Constant(value=str(text))) if _is_beside(left):
                said.data.add(text)
            case ast.Call(func=ast.Name(id="getattr"), args=[_, ast.Constant(value=str(text)), *_]):
                said.names |= {text, f".{text}"}
    said.lists = bool(said.names & {"iter_modules", "import_all"})
    return said


def _variables(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """Names of a function's parameters and of what it assigns: they mean no function of the module."""
    given = function.args
    every = (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg)
    found = {one.arg for one in every if one is not None}
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif not isinstance(node, _SCOPES):
            waiting += ast.iter_child_nodes(node)
    return found


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """The parts of a tree that can run: neither what is under TYPE_CHECKING nor annotations."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and _last_name(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        yield node
        for name in node._fields:
            value = None if name in ("annotation", "returns", "ctx") else getattr(node, name, None)
            if isinstance(value, list):
                waiting += [child for child in value if isinstance(child, ast.AST)]
            elif isinstance(value, ast.AST):
                waiting.append(value)


def _is_beside(node: ast.expr) -> bool:
    """Whether this is `Path(__file__).parent`."""
    match node:
        case ast.Attribute(value=ast.Call(func=ast.Name(id="Path"), args=[ast.Name(id="__file__")]), attr="parent"):
            return True
    return False


def _last_name(node: ast.expr) -> str:
    """The name of a base or a decorator: `torch.no_grad()` -> "no_grad", `Generic[T]` -> "Generic"."""
    match node:
        case ast.Call(func=inner) | ast.Subscript(value=inner):
            return _last_name(inner)
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ""
