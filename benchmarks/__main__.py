"""python -m benchmarks [NAME ...]: run a benchmark by its name, or list them."""

from __future__ import annotations

import ast
import difflib
import runpy
import sys
from pathlib import Path

from targets.errors import InputError, run_cli

#: What makes the embedded files, what trains models, what asks a question of research, and what measures the product.
ROOMS = ("make", "train", "experiments", "product")


def names() -> dict[str, str]:
    """Name -> module of every benchmark: each file of a room is one."""
    files = [file for room in ROOMS for file in sorted((Path(__file__).parent / room).glob("*.py"))]
    return {
        file.stem.replace("_", "-"): f"benchmarks.{file.parent.name}.{file.stem}"
        for file in files
        if file.stem != "__init__"
    }


def _does(module: str) -> str:
    file = Path(__file__).parents[1] / f"{module.replace('.', '/')}.py"
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split("\n\n")[0].replace("\n", " ")


def _listed() -> int:
    for name, module in names().items():
        print(f"{module.split('.')[1]:12}{name:22}{_does(module)}")
    return 0


def main() -> None:
    """Run the command line."""
    known = names()
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        run_cli(_listed)
    name = sys.argv[1]
    if name not in known:
        run_cli(lambda: _unknown(name, list(known)))
    sys.argv = [f"benchmarks {name}", *sys.argv[2:]]
    runpy.run_module(known[name], run_name="__main__")


def _unknown(name: str, known: list[str]) -> int:
    near = difflib.get_close_matches(name, known, 1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    raise InputError(f"unknown benchmark {name!r}{meant} `python -m benchmarks` lists them")


if __name__ == "__main__":
    main()
