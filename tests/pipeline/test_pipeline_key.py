"""A result is kept under everything that it depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compress.pipeline import Artifact, Cache, Graph, Runner, Stage
from compress.pipeline.key import Keymaker

from .toys import Text, shout, stage

BASE = stage(
    "b", inputs={"x": "a"}, options={"label": "b"}, sources={"model": "00"}, code=("tally_me",), libraries=("rich",)
)
INPUT = {"x": Text(Path("anywhere"), "11")}


class Prose(Artifact):
    pass


@pytest.fixture(autouse=True)
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with a module inside, on the path, that nobody imports."""
    package = tmp_path / "tally_me"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "inner.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    return package / "inner.py"


def key(stage: Stage = BASE, inputs: Mapping[str, Artifact] = INPUT, seed: int = 0) -> str:
    return Keymaker([stage], seed).key(stage, inputs).digest


CHANGES: dict[str, dict[str, Any]] = {
    "kind": {"stage": replace(BASE, name="c")},
    "type": {"stage": replace(BASE, produces=Prose)},
    "function": {"stage": replace(BASE, run=shout)},
    "option value": {"stage": replace(BASE, options={"label": "c"})},
    "option name": {"stage": replace(BASE, options={"lable": "b"})},
    "more options": {"stage": replace(BASE, options={"label": "b", "steps": 1})},
    "source": {"stage": replace(BASE, sources={"model": "01"})},
    "source name": {"stage": replace(BASE, sources={"data": "00"})},
    "code names": {"stage": replace(BASE, code=())},
    "libraries": {"stage": replace(BASE, libraries=("rich", "pytest"))},
    "seed": {"seed": 1},
    "input content": {"inputs": {"x": Text(Path("anywhere"), "12")}},
    "input parameter": {"inputs": {"y": Text(Path("anywhere"), "11")}},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_each_ingredient_changes_the_key(change: dict[str, Any]) -> None:
    assert key(**change) != key()


@pytest.mark.parametrize(
    "same",
    [
        {"stage": replace(BASE, does="other words", why="other words")},
        {"stage": replace(BASE, name="b-7")},
        {"stage": replace(BASE, inputs={"x": "renamed"})},
        {"inputs": {"x": Text(Path("elsewhere"), "11")}},
    ],
    ids=["words", "position", "maker's name", "place"],
)
def test_what_cannot_change_the_result_leaves_the_key(same: dict[str, Any]) -> None:
    assert key(**same) == key()


def test_an_edit_of_the_code_changes_the_key(code: Path) -> None:
    before = key()
    code.write_text("x = 2\n")
    assert key() != before
    code.write_text("x = 1\n")
    assert key() == before


def test_a_new_file_in_the_package_changes_the_key(code: Path) -> None:
    before = key()
    code.with_name("other.py").write_text("")
    assert key() != before


def test_the_module_of_run_is_part_of_the_code() -> None:
    assert BASE.function.__module__ in BASE.modules


def test_another_library_version_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key()
    monkeypatch.setattr("compress.pipeline.key.library_versions", lambda names: {"rich": "0.0.1"})
    assert key() != before


def test_code_that_is_edited_during_a_run_does_not_reach_the_keys_of_that_run(cache: Cache, code: Path) -> None:
    def edits(context: Any) -> None:
        code.write_text("x = 3\n")
        (context.folder / "text.txt").write_text("same")

    graph = Graph([stage("a", edits), replace(BASE, name="b")])
    planned_code = Keymaker(graph.stages, 0).key(graph.stages[1], INPUT).ingredients["code"]
    made = Runner(graph, cache).run()
    record = (made["b"].path.parent / "artifact.json").read_text()
    assert planned_code["tally_me"] in record
