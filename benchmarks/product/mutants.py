"""Do the tests notice a wrong line? Small changes are made to the code that judges, and the tests must fail on each.

    python -m benchmarks mutants [FILE ...] [--most 40] [--seed 0]

writes benchmarks/results/mutants.json: of each file how many mutants its tests killed, and the ones that live. A mutant
is one changed comparison, operator, number, truth value, or a dropped `not`. Texts and annotations are left alone.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.lab import record

ROOT = Path(__file__).parents[2]
RESULT = Path(__file__).parents[1] / "results" / "mutants.json"
#: Of CPU time, so that a busy machine kills nobody.
SECONDS = 120
VERIFICATION = "tests/verification"
#: A file, and the tests that are there for it.
TESTS: dict[str, tuple[str, ...]] = {
    "compress/verification/statistics.py": (
        f"{VERIFICATION}/test_statistics.py",
        f"{VERIFICATION}/test_nothing_changed.py",
    ),
    "compress/verification/estimate.py": (f"{VERIFICATION}/test_nothing_changed.py", f"{VERIFICATION}/test_gate.py"),
    "compress/verification/gate.py": (f"{VERIFICATION}/test_gate.py", f"{VERIFICATION}/test_drift.py"),
    "compress/verification/power.py": (f"{VERIFICATION}/test_power.py", f"{VERIFICATION}/test_gate.py"),
    "compress/verification/sequential.py": (f"{VERIFICATION}/test_power.py", f"{VERIFICATION}/test_sequential.py"),
    "compress/verification/early.py": (f"{VERIFICATION}/test_early.py", f"{VERIFICATION}/test_sequential.py"),
    "compress/verification/distinct.py": (f"{VERIFICATION}/test_distinct.py",),
    "compress/verification/outcome.py": (f"{VERIFICATION}/test_gate.py",),
    "compress/data/splits.py": ("tests/data/test_splits.py", "tests/data/test_image_data.py"),
    "compress/rewrites/fold_norm.py": ("tests/rewrites/test_rewrites_exact.py",),
    "compress/rewrites/merge_qk.py": ("tests/rewrites/test_rewrites_exact.py",),
}
#: What the tests import in any case: done once, before the mutants are tried.
WARM = (
    "numpy",
    "scipy.optimize",
    "scipy.special",
    "scipy.stats",
    "pydantic",
    "hypothesis",
    "pytest",
    "sklearn.metrics",
)

_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_COUNTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult,
}  # fmt: skip


def mutants(tree: ast.Module) -> Iterator[tuple[int, str, ast.Module]]:
    """(line, what was changed, the changed module), of each change that can be made."""
    places = [node for node in _code(tree) if _change(copy.deepcopy(node)) is not None]
    for place in range(len(places)):
        changed = copy.deepcopy(tree)
        node = [node for node in _code(changed) if _change(copy.deepcopy(node)) is not None][place]
        what = _change(node)
        assert what is not None
        yield getattr(node, "lineno", 0), what, changed


def _code(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but annotations, texts and what only texts are made of."""
    for name, field in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in field if isinstance(field, list) else [field]:
            if isinstance(child, ast.JoinedStr | ast.Import | ast.ImportFrom) or not isinstance(child, ast.AST):
                continue
            if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
                continue
            yield child
            yield from _code(child)


def _change(node: ast.AST) -> str | None:
    """Change a node in place; what was done, or None where nothing can be."""
    before = ast.unparse(node) if isinstance(node, ast.expr) else ""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARED:
        node.ops[0] = _COMPARED[type(node.ops[0])]()
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in _COUNTED and not _is_text(node):
        node.op = _COUNTED[type(node.op)]()
    elif isinstance(node, ast.BoolOp):
        node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        node.op = ast.UAdd() if isinstance(node.op, ast.USub) else ast.Not()
        if isinstance(node.op, ast.Not):
            node.operand = ast.UnaryOp(ast.Not(), node.operand)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        node.value = not node.value
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        node.value = node.value + 1
    else:
        return None
    after = ast.unparse(node) if isinstance(node, ast.expr) else type(node.op).__name__  # type: ignore[attr-defined]
    return f"{before} -> {after}"


def _is_text(node: ast.BinOp | ast.AugAssign) -> bool:
    sides = [node.value] if isinstance(node, ast.AugAssign) else [node.left, node.right]
    return any(isinstance(side, ast.JoinedStr) or isinstance(getattr(side, "value", None), str) for side in sides)


class _Loader(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a changed tree."""

    def __init__(self, name: str, file: Path, tree: ast.Module) -> None:
        self.name, self.file, self.code = name, file, compile(ast.fix_missing_locations(tree), str(file), "exec")

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self.name:
            return None
        return importlib.util.spec_from_file_location(name, self.file, loader=self)  # type: ignore[arg-type]

    def exec_module(self, module: ModuleType) -> None:
        exec(self.code, module.__dict__)


class _Changed:
    """Puts the changed module in front of whatever the tests' own settings put in front."""

    def __init__(self, loader: _Loader) -> None:
        self.loader = loader

    def pytest_collection(self) -> None:
        sys.meta_path.insert(0, self.loader)


def module_of(file: str) -> str:
    """The name by which a file is imported."""
    return file.removesuffix(".py").replace("/", ".")


def passes(file: str, tree: ast.Module) -> bool:
    """Whether the file's tests pass with this tree in its place, in a process of its own that has a limited time."""
    child = os.fork()
    if child == 0:
        os._exit(_run(file, tree))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _run(file: str, tree: ast.Module) -> int:
    import pytest

    signal.setitimer(signal.ITIMER_PROF, SECONDS)  # ends the process: a mutant that never ends is a killed one
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    try:
        tests = [test for test in TESTS[file] if (ROOT / test).exists()]
        options = [
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            "--hypothesis-seed=0",
            "--deselect",
            "tests/verification/test_ci.py",
        ]
        return int(pytest.main([*options, *tests], plugins=[_Changed(_Loader(module_of(file), ROOT / file, tree))]))
    except BaseException:  # noqa: BLE001 - a mutant may raise anything at all, while it is imported too
        return 1


def survivors(file: str, most: int, seed: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Try a seeded choice of a file's mutants."""
    tree = ast.parse((ROOT / file).read_text())
    if not passes(file, tree):
        raise SystemExit(f"the tests of {file} fail without any change; mend them first")
    if passes(file, ast.parse("raise ImportError")):
        raise SystemExit(f"the tests of {file} pass without it: no change would reach them")
    every = list(mutants(tree))
    chosen = sorted(random.Random(seed).sample(range(len(every)), min(most, len(every))))
    alive = []
    for place in chosen:
        line, what, changed = every[place]
        if passes(file, changed):
            alive.append(f"line {line}: {what}")
            tell(f"{file}, line {line}: lives: {what}")
    return {"mutants": len(every), "tried": len(chosen), "killed": len(chosen) - len(alive), "alive": alive}


def main() -> int:
    """Run the command line; 1 if fewer than 95 % of the mutants that were tried were killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE", default=list(TESTS))
    parser.add_argument("--most", type=int, default=1000, help="mutants of a file at most, drawn by the seed")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    for name in WARM:
        importlib.import_module(name)
    before = json.loads(RESULT.read_text())["files"] if RESULT.is_file() else {}
    rows = {**before}
    for file in args.files:
        rows[file] = survivors(file, args.most, args.seed, lambda text: print(text, file=sys.stderr))
        print(f"{file}: {rows[file]['killed']} of {rows[file]['tried']} killed", file=sys.stderr)
        tried, killed = (sum(row[name] for row in rows.values()) for name in ("tried", "killed"))
        command = f"python -m benchmarks mutants --most {args.most} --seed {args.seed}"
        result = {"command": command, "killed_share": round(killed / tried, 4), "files": rows}
        record.save(RESULT, result)
    return 0 if killed >= 0.95 * tried else 1


if __name__ == "__main__":
    sys.exit(main())
