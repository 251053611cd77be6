"""A task is one file on the workstation and one on the device; nothing else knows its name."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from pydantic import TypeAdapter

import compress
from compress import tasks
from compress.families.purpose import Head
from compress.tasks.task import Task
from compress.verification.kinds import kinds
from compress.verification.metrics import METRICS
from runtime.answers import Answerer, Wanted
from runtime.texts.generate import Sampling

ROOT = Path(__file__).parents[2]
PACKAGES = ("compress", "export", "runtime", "targets")
#: Where "embedding" is a part of a model.
PARTS = {"compress/model/heads/embedding.py", "compress/judging/blocks.py", "compress/zoo/lora.py"}


@functools.cache
def spelled(file: Path) -> frozenset[str]:
    """Every string of a file that code can see, docstrings aside."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    documents = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in documents)
    return frozenset(node.value for node in constants if isinstance(node.value, str))


@pytest.mark.parametrize("task", tasks.every(), ids=lambda task: task.name)
def test_the_name_of_a_task_stands_in_its_own_two_files_alone(task: Task) -> None:
    own = f"{task.name.replace('-', '_')}.py"
    files = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py")) if file.name != own]
    assert len(files) > 200
    found = [str(file.relative_to(ROOT)) for file in files if task.name in spelled(file)]
    assert set(found) <= PARTS, f"{task.name} is spelled in {found}"


def test_the_graphs_of_an_encoder_decoder_are_known_to_its_task_and_to_what_cuts_them_alone() -> None:
    own = {"compress/tasks/text_to_text.py", "runtime/answers/text_to_text.py", "export/cut.py"}
    found = set()
    for file in (one for package in PACKAGES for one in sorted((ROOT / package).rglob("*.py"))):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            of_manifest = isinstance(node, ast.ImportFrom) and node.module == "runtime.bundles.manifest"
            if of_manifest and {"ENCODER", "DECODER"} & {alias.name for alias in node.names}:
                found.add(str(file.relative_to(ROOT)))
            if isinstance(node, ast.ImportFrom) and node.module == "export.cut":
                assert str(file.relative_to(ROOT)) == "compress/tasks/text_to_text.py"
    assert found == own


@pytest.mark.parametrize("task", tasks.every(), ids=lambda task: task.name)
def test_a_task_is_complete(task: Task) -> None:
    assert task.metric in METRICS and not METRICS[task.metric].compares
    assert task.bound == METRICS[task.metric].bound
    assert task.architectures and task.outputs and task.noun and task.beside


@pytest.mark.parametrize("task", tasks.every(), ids=lambda task: task.name)
def test_a_task_declares_each_attribute_in_its_type(task: Task) -> None:
    declared = get_type_hints(Task, localns={"Head": Head})
    assert {"name", "noun", "architectures", "head", "outputs", "libraries"} <= declared.keys()
    for name, kind in declared.items():
        TypeAdapter(get_args(kind)[0]).validate_python(getattr(task, name), strict=True)
    assert len(set(task.outputs)) == len(task.outputs)
    folder = Path(compress.__file__).parent / "recipes" / task.recipes
    assert folder.is_dir() and list(folder.glob("*.toml"))


@pytest.mark.parametrize("task", tasks.every(), ids=lambda task: task.name)
def test_the_answers_of_a_task_are_of_a_kind_that_has_its_metric(task: Task) -> None:
    [kind] = [kind for kind in kinds() if kind.__name__ == type(task).answers.__annotations__["return"]]
    assert METRICS[task.metric] in kind.metrics


@pytest.mark.parametrize("task", tasks.every(), ids=lambda task: task.name)
def test_the_device_has_answers_for_a_task(task: Task) -> None:
    module = importlib.import_module(f"runtime.answers.{task.name.replace('-', '_')}")
    assert list(inspect.signature(module.open_answerer).parameters) == ["bundle", "ids"]
    answerer = getattr(module, module.open_answerer.__annotations__["return"])
    for name in ("expand", "answer", "line"):
        assert inspect.signature(getattr(answerer, name)).parameters.keys() == (
            inspect.signature(getattr(Answerer, name)).parameters.keys()
        )
    assert set(answerer.options) <= {field.name for of in (Wanted, Sampling) for field in fields(of)}


def test_one_task_at_most_is_for_models_that_do_not_say_what_they_are_for() -> None:
    assert [task.name for task in tasks.every() if task.fallback] == ["image-classification"]


@pytest.mark.parametrize("count", [None, 1, 2])
@pytest.mark.parametrize("problem", [None, "regression", "single_label_classification", "multi_label_classification"])
def test_no_two_tasks_on_one_kind_of_input_are_for_the_same_checkpoint(count: int | None, problem: str | None) -> None:
    config: dict[str, object] = {} if problem is None else {"problem_type": problem}
    if count is not None:
        config["id2label"] = {str(index): f"LABEL_{index}" for index in range(count)}
    found = [task for task in tasks.every() if task.claims(config) is not False]
    pairs = [(task.noun, end, task.claims(config)) for task in found for end in task.architectures]
    assert len(pairs) == len(set(pairs))
