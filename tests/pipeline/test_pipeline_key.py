"""A result is kept under everything that it depends on."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.toys import Text, shout, stage

from compress.pipeline import Artifact, Cache, Graph, Runner, Stage
from compress.pipeline.key import Keymaker

BASE = stage("b", inputs={"x": "a"}, options={"label": "b"}, sources={"model": "00"}, libraries=("rich",))
STEP = """def run(context, **inputs):
    from tally_me import inner
    (context.folder / "text.txt").write_text(f"{inner.x}")
"""
INPUT = {"x": Text(Path("anywhere"), "11")}


class Prose(Artifact):
    pass


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """BASE with a function of a package of its own, `tally_me`, whose module imports another."""
    package = tmp_path / "tally_me"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text("x = 1\n")
    (package / "unused.py").write_text("x = 1\n")
    (package / "step.py").write_text(STEP)
    monkeypatch.syspath_prepend(tmp_path)
    yield replace(BASE, run=importlib.import_module("tally_me.step").run)
    for name in [name for name in sys.modules if name.startswith("tally_me")]:
        del sys.modules[name]


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


def test_an_edit_of_code_that_is_imported_changes_the_key(written: Stage, tmp_path: Path) -> None:
    before, inner = key(written), tmp_path / "tally_me" / "inner.py"
    inner.write_text("x = 2\n")
    assert key(written) != before
    inner.write_text("x = 1\n")
    assert key(written) == before
    (tmp_path / "tally_me" / "unused.py").write_text("x = 2\n")
    assert key(written) == before


def test_a_cache_that_older_code_filled_is_not_found_again_and_stays_as_it_was(
    cache: Cache, written: Stage, tmp_path: Path
) -> None:
    def entries() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in sorted(cache.root.rglob("*")) if path.is_file()}

    graph = Graph([replace(written, inputs={})])
    old = Runner(graph, cache).run()["b"].path
    before = {path: content for path, content in entries().items() if path.is_relative_to(old.parent)}
    assert Runner(graph, cache).run()["b"].path == old
    (tmp_path / "tally_me" / "inner.py").write_text("x = 2\n")
    new = Runner(graph, cache).run()["b"].path
    assert new != old and new.is_dir()
    assert before and before.items() <= entries().items()


def test_another_library_version_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key()
    monkeypatch.setattr("compress.pipeline.key.library_versions", lambda names: {"rich": "0.0.1"})
    assert key() != before


def test_code_that_is_edited_during_a_run_does_not_reach_the_keys_of_that_run(
    cache: Cache, written: Stage, tmp_path: Path
) -> None:
    def edits(context: Any) -> None:
        (tmp_path / "tally_me" / "inner.py").write_text("x = 3\n")
        (context.folder / "text.txt").write_text("same")

    def reads(context: Any, x: Text) -> None:
        from tally_me import inner  # type: ignore[import-not-found]

        (context.folder / "text.txt").write_text(str(inner.x))

    graph = Graph([stage("a", edits), replace(BASE, name="b", run=reads)])
    planned = Keymaker(graph.stages, 0).key(graph.stages[1], INPUT).ingredients["code"]
    made = Runner(graph, cache).run()
    assert json.loads((made["b"].path.parent / "artifact.json").read_text())["ingredients"]["code"] == planned
