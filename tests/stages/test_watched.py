"""What is watched is seen: code of a module in this thread and others, at its import, and nothing that stands still."""

from __future__ import annotations

import ast
import importlib
import threading
from pathlib import Path

import pytest
from support import marks
from support.watched import modules_run

from compress import json_files
from compress.pipeline import Artifact, Cache, Graph, Runner, Stage, StageContext
from runtime import states
from targets import machine


def test_the_modules_of_which_code_ran_are_named() -> None:
    with modules_run() as ran:
        states.is_memory("memory.0.key")
        thread = threading.Thread(target=machine.usable_cpus)
        thread.start()
        thread.join()
    assert {"runtime.states", "targets.machine"} <= ran
    assert json_files.__name__ not in ran and not any(name.startswith("compress.pipeline") for name in ran)


def test_marks_keep_docstrings_and_lines() -> None:
    text = '"""Module."""\nfrom __future__ import annotations\nx = 1\ndef f():\n    """Doc."""\n    raise ValueError\n'
    tree = ast.parse(text)
    for node in (tree, tree.body[-1]):
        marks._put(node, "y.add(1)")  # type: ignore[arg-type]
    assert ast.get_docstring(tree) == "Module."
    function = tree.body[-1]
    assert isinstance(function, ast.FunctionDef) and ast.get_docstring(function) == "Doc."
    assert [one.lineno for one in function.body] == [5, 6, 6]
    assert [type(one).__name__ for one in tree.body] == ["Expr", "ImportFrom", "Expr", "Assign", "FunctionDef"]


def _reaches_what_it_does_not_name(context: StageContext) -> None:
    importlib.import_module(".".join(("runtime", "measuring", "power"))).cpu_name()
    (context.folder / "text.txt").write_text("done")


def test_a_stage_that_runs_what_its_key_does_not_cover_fails(tmp_path: Path) -> None:
    stage = Stage("hidden", "hides", "to be found", {}, Artifact, _reaches_what_it_does_not_name)
    with pytest.raises(AssertionError, match=r"stage hidden ran .*runtime\.measuring\.power"):
        Runner(Graph([stage]), Cache(tmp_path)).run()
