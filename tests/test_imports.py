"""Who may import whom: compress -> export -> runtime -> targets, inside compress from upper floors to lower ones, and a
device side of numpy and onnxruntime alone."""

from __future__ import annotations

import ast
import functools
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("edgepress", "compress", "export", "runtime", "targets")
#: What the device side may import beside the standard library and numpy, inside functions only; a backend imports what
#: it computes with.
OPTIONAL = {
    "runtime": {
        "onnxruntime",
        "PIL",
        "tokenizers",
        "cryptography",
        "tensorrt",
        "tensorrt_rtx_bindings",
        "cv2",
    },
    "targets": set[str](),
}
HEAVY = {
    "tokenizers",
    "torch",
    "transformers",
    "pydantic",
    "rich",
    "onnx",
    "onnxruntime",
    "scipy",
    "safetensors",
    "accelerate",
    "typer",
}


#: The rooms inside `compress`, upper floors first: a room imports from the floors below it alone.
FLOORS = (
    {"search"},
    {"run", "verify"},
    {"whole"},
    {"stages"},
    {"judging", "recipe"},
    {"tables"},
    {"tasks"},
    {"heal"},
    {"rewrites", "families", "zoo", "data"},
    {"model", "pipeline"},
    {"verification"},
    {"cli", "spec", "json_files", "timm_config"},
)
#: What verification takes of the device side: files, their faults and words, no model.
OF_VERDICTS = {"runtime.faults", "runtime.files", "runtime.texts.text", "runtime.texts.words"}
#: The most files that a room holds, and the rooms that hold more since each of their files is one member of a registry.
ROOM = 20
REGISTRIES = {"compress/families", "compress/rewrites", "compress/stages", "compress/tasks", "runtime/answers"}


def files_of(package: str) -> list[Path]:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    return files


def imports_of(file: Path) -> Iterator[tuple[str, int, bool]]:
    """The top-level name of each import, its line, and whether it runs when the module is imported."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    lazy = {
        inner
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef) or _is_for_typing(outer)
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno} imports by a relative name"
            names = [str(node.module)]
        else:
            continue
        yield from ((name.split(".")[0], node.lineno, node not in lazy) for name in names)


def _is_for_typing(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@functools.cache
def project_imports() -> dict[str, set[str]]:
    """Module -> modules of the project that it imports when it runs, at once or lazily."""
    files = {module_of(file): file for package in PACKAGES for file in files_of(package)}
    found: dict[str, set[str]] = {}
    for module, file in files.items():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for_typing = {inner for outer in ast.walk(tree) if _is_for_typing(outer) for inner in ast.walk(outer)}
        names: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import) and node not in for_typing:
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node not in for_typing:
                longer = {f"{node.module}.{alias.name}" for alias in node.names}
                names |= (longer & files.keys()) or {str(node.module)}
        found[module] = (names & files.keys()) - {module}
    return found


def test_every_room_of_compress_has_a_floor() -> None:
    rooms = {module.split(".")[1] for module in project_imports() if module.startswith("compress.")}
    assert rooms == set().union(*FLOORS)


def test_rooms_of_compress_import_from_the_floors_below_alone() -> None:
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    wrong = {
        (module, name)
        for module, names in project_imports().items()
        for name in names
        if module.startswith("compress.") and name.startswith("compress.")
        if module.split(".")[1] != name.split(".")[1]
        if floor[module.split(".")[1]] >= floor[name.split(".")[1]]
    }
    assert wrong == set()


def test_verdicts_are_made_of_arrays_alone_with_no_model_at_hand() -> None:
    named = {
        name
        for module, names in project_imports().items()
        for name in names
        if module.startswith("compress.verification") and name.split(".")[0] in ("runtime", "export")
    }
    assert named <= OF_VERDICTS


def test_only_registries_hold_more_files_than_a_reader_takes_in() -> None:
    rooms = Counter(str(file.parent.relative_to(ROOT)) for package in PACKAGES for file in files_of(package))
    assert {room for room, count in rooms.items() if count > ROOM} == REGISTRIES


def test_no_file_has_more_than_400_lines() -> None:
    long = [str(file) for package in PACKAGES for file in files_of(package) if file.read_bytes().count(b"\n") > 400]
    assert long == []


def circles(imports: dict[str, set[str]]) -> list[set[str]]:
    """Groups of modules that import each other, over however many others."""
    reach = {module: set(names) for module, names in imports.items()}
    changed = True
    while changed:
        changed = False
        for names in reach.values():
            more = set().union(*(reach[name] for name in names)) - names if names else set()
            names |= more
            changed = changed or bool(more)
    found = {frozenset({module, *(name for name in reach[module] if module in reach[name])}) for module in reach}
    return [set(group) for group in found if len(group) > 1]


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circles(project_imports()) == []


def test_tests_import_neither_each_other_nor_benchmarks() -> None:
    wrong = []
    for file in sorted((ROOT / "tests").rglob("*.py")):
        of_benchmarks = file.parent == ROOT / "tests" / "benchmarks"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) and node.module else []
            for name in names:
                is_test = name.split(".")[-1].startswith("test_")
                if is_test or (name.split(".")[0] == "benchmarks" and not of_benchmarks):
                    wrong.append(f"{file.relative_to(ROOT)}:{node.lineno} imports {name}")
    assert wrong == []


def test_a_circle_of_files_would_be_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_package_imports_one_before_it(package: str) -> None:
    before = set(PACKAGES[: PACKAGES.index(package)]) | {"tests", "benchmarks"}
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {name}"
        for file in files_of(package)
        for name, line, _ in imports_of(file)
        if name in before
    ]
    assert wrong == []


@pytest.mark.parametrize("package", ["runtime", "targets"])
def test_the_device_side_needs_numpy_alone_and_asks_for_more_only_where_it_uses_it(package: str) -> None:
    plain = {*sys.stdlib_module_names, "edgepress_siblings", "runtime", "targets"} | (
        {"numpy"} if package == "runtime" else set()
    )
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {name}"
        for file in files_of(package)
        for name, line, at_import in imports_of(file)
        if name not in plain and (at_import or (name not in OPTIONAL[package] and file.parent.name != "backends"))
    ]
    assert wrong == []


def test_export_knows_nothing_of_the_libraries_that_models_come_from() -> None:
    names = {name for file in files_of("export") for name, _, _ in imports_of(file)}
    assert not names & {"transformers", "accelerate", "pydantic"}


def modules_after(*imported: str) -> set[str]:
    """Top-level names of all modules that a fresh interpreter holds after these imports."""
    script = (
        f"import sys, json; {'; '.join(f'import {name}' for name in imported)}; print(json.dumps(list(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in json.loads(done.stdout)}


@pytest.mark.parametrize("package", ["runtime", "targets"])
def test_importing_every_module_of_the_device_side_brings_in_nothing_heavy(package: str) -> None:
    modules = [
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for file in files_of(package)
        if file.name != "__main__.py"
    ]
    loaded = modules_after(*modules)
    assert package in loaded
    assert not loaded & (HEAVY | {"compress", "export"})
    assert package == "runtime" or "numpy" not in loaded


@pytest.mark.parametrize("package", ["compress", "export"])
def test_importing_a_package_by_its_name_is_cheap(package: str) -> None:
    assert not modules_after(package) & HEAVY


def test_reading_specs_of_models_needs_no_transformers() -> None:
    loaded = modules_after("compress.model", "compress.families", "compress.rewrites")
    assert "torch" in loaded
    assert not loaded & {"transformers", "accelerate", "onnx", "onnxruntime"}


@pytest.mark.parametrize("module", ["runtime.ort", "export.precision.int8_dynamic", "compress.stages.precision"])
def test_onnxruntime_keeps_nothing_in_the_home_folder(module: str, tmp_path: Path) -> None:
    ask = f"import {module}, onnxruntime, os; onnxruntime.SessionOptions(); print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    command = [sys.executable, "-c", ask]
    for given in ({}, {"ORT_DISABLE_TELEMETRY": "0"}):
        asked = {**environment, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), **given}
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True, env=asked)
        assert done.stdout.strip() == given.get("ORT_DISABLE_TELEMETRY", "1")
        assert given or not list(tmp_path.iterdir())
