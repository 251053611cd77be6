"""Marks in the project's modules, put in as they are imported: each function says that its module ran. A tracer of
Python would see as much, and slow an export down tenfold."""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType

PACKAGES = ("compress", "export", "runtime", "targets")
#: Modules of which code ran, by name.
RAN: set[str] = set()
_NAME = "__ran__"
_HEAD = f"{_NAME} = __import__('support.marks', fromlist=['RAN']).RAN"
#: While torch traces the body of a loop into a graph, nothing else may change: the models' functions say nothing then.
_TRACED, _TRACING, _SAYS = "compress.model.", "__tracing__", "__import__('torch').compiler.is_dynamo_compiling"


class _Marking(SourceFileLoader):
    """Compiles a module with its marks, and keeps nothing of it on the disk."""

    def get_code(self, fullname: str) -> CodeType:
        tree = ast.parse(self.get_data(self.path), self.path)
        mark = f"{_NAME}.add({fullname!r})"
        traced = fullname.startswith(_TRACED)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                _put(node, f"if not {_TRACING}(): {mark}" if traced else mark)
        _put(tree, f"{_HEAD}; {mark}" + (f"; {_TRACING} = {_SAYS}" if traced else ""))
        return compile(tree, self.path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.split(".")[0] not in PACKAGES:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _Marking(spec.loader.name, spec.loader.path)
        return spec


def install() -> None:
    """Mark what is imported from here on."""
    sys.meta_path.insert(0, _Finder())


def are_in(name: str) -> bool:
    """Whether a module was imported with its marks."""
    return hasattr(sys.modules[name], _NAME)


def _put(node: ast.Module | ast.FunctionDef | ast.AsyncFunctionDef, text: str) -> None:
    """Statements behind the docstring and imports from the future, on the line of what follows."""
    first = next((at for at, one in enumerate(node.body) if not _comes_first(one)), len(node.body))
    place = node.body[min(first, len(node.body) - 1)] if node.body else node
    for one in reversed(ast.parse(text).body):
        for part in ast.walk(one):
            ast.copy_location(part, place)
        node.body.insert(first, one)


def _comes_first(node: ast.stmt) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module == "__future__"
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
