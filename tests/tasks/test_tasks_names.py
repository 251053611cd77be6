"""A task is one file on the workstation and one on the device; nothing else knows its name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from compress import tasks
from compress.verification.metrics import METRICS

ROOT = Path(__file__).parents[2]
PACKAGES = ("compress", "export", "runtime", "targets")
#: Where "embedding" is a part of a model.
PARTS = {"compress/model/heads/embedding.py", "compress/judging/blocks.py"}


def spelled(file: Path) -> Iterator[str]:
    """Every string of a file that code can see, docstrings aside."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    documents = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
            yield node.value


@pytest.mark.parametrize("task", tasks.every(), ids=lambda task: task.name)
def test_the_name_of_a_task_stands_in_its_own_two_files_alone(task: tasks.task.Task) -> None:
    own = f"{task.name.replace('-', '_')}.py"
    files = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py")) if file.name != own]
    assert len(files) > 200
    found = [str(file.relative_to(ROOT)) for file in files if task.name in spelled(file)]
    assert set(found) <= PARTS, f"{task.name} is spelled in {found}"


@pytest.mark.parametrize("task", tasks.every(), ids=lambda task: task.name)
def test_a_task_is_complete(task: tasks.task.Task) -> None:
    assert task.metric in METRICS and not METRICS[task.metric].compares
    assert task.bound == METRICS[task.metric].bound
    assert task.architectures and task.outputs and task.noun and task.beside
    assert (ROOT / "runtime" / "answers" / f"{task.name.replace('-', '_')}.py").is_file()


def test_one_task_at_most_is_for_models_that_do_not_say_what_they_are_for() -> None:
    assert [task.name for task in tasks.every() if task.fallback] == ["image-classification"]


def test_no_two_tasks_on_one_kind_of_input_are_for_the_same_architecture() -> None:
    pairs = [(task.noun, end) for task in tasks.every() for end in task.architectures]
    assert len(pairs) == len(set(pairs))
