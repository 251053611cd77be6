"""Benchmarks are found by their room, and every result says where it comes from."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from benchmarks.__main__ import ROOMS, names
from benchmarks.lab.record import PROVENANCE, save

ROOT = Path(__file__).parents[2]
RESULTS = sorted((ROOT / "benchmarks" / "results").rglob("*.json"))


def test_every_script_is_in_a_room_and_has_a_name_of_its_own() -> None:
    scripts = [file for room in ROOMS for file in (ROOT / "benchmarks" / room).glob("*.py")]
    assert len(names()) == len(scripts) and len(scripts) > 40
    assert [file.name for file in (ROOT / "benchmarks").glob("*.py")] == ["__main__.py"]


@pytest.mark.parametrize("module", names().values())
def test_a_script_says_what_it_does_and_imports_what_is_there(module: str) -> None:
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    imported = [(node.module or "", node.names) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    for name, aliases in imported:
        if name.split(".")[0] == "benchmarks":
            place = ROOT / name.replace(".", "/")
            files = [place / f"{alias.name}.py" for alias in aliases] if place.is_dir() else [place.with_suffix(".py")]
            assert all(file.is_file() for file in files), f"{module} imports {name}"


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.stem)
def test_a_result_says_where_it_comes_from(file: Path) -> None:
    result = json.loads(file.read_text(encoding="utf-8"))["provenance"]
    jsonschema.validate(result, PROVENANCE)
    whole = all(result[key] not in (None, {}) for key in ("command", "versions", "hardware", "seed"))
    assert whole or "not kept" in result["note"]


def test_a_new_result_has_everything_and_one_that_is_added_to_keeps_it(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    save(file, {"command": "python -m benchmarks engines", "seed": 3, "rows": [1]})
    first: dict[str, Any] = json.loads(file.read_text())
    jsonschema.validate(first["provenance"], PROVENANCE)
    assert first["provenance"]["seed"] == 3 and "python" in first["provenance"]["versions"]
    save(file, {**first, "seed": 4})
    assert json.loads(file.read_text())["provenance"] == first["provenance"]


def test_the_runner_names_the_nearest_benchmark() -> None:
    command = [sys.executable, "-m", "benchmarks", "gate-sped"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown benchmark 'gate-sped'; did you mean 'gate-speed'?")
