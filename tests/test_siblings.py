"""A user's own export.py or targets/ in the folder where a command runs is named, and never run in place of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: An editable installation finds packages after all folders have been looked through.
EDITABLE = f"""
import sys
from importlib.machinery import PathFinder

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, [{str(ROOT)!r}]) if path is None else None

sys.meta_path.append(Finder)
sys.path = [folder for folder in sys.path if folder != {str(ROOT)!r}]
"""


def start(folder, arguments, **environment):
    """Python in that folder, with nothing of this checkout's settings but what is given."""
    command = [sys.executable, *arguments]
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env={**kept, **environment}, check=False)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("compress.run", "export"),
        ("compress.verify", "runtime"),
        ("compress.run", "targets"),
        ("runtime.run", "targets"),
    ],
)
def test_a_script_of_the_users_own_is_named_and_does_not_run(tmp_path, module, name):
    (tmp_path / f"{name}.py").write_text("print('mine ran')")
    done = start(tmp_path, ["-m", module, "--help"], PYTHONPATH=str(ROOT))
    told = f"error: {tmp_path}/{name}.py hides the package {name} of edgepress in {ROOT}; "
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == told + "rename it, or run from another folder\n"


def test_a_script_that_nothing_asks_for_is_left_in_peace(tmp_path):
    (tmp_path / "export.py").write_text("print('mine ran')")
    done = start(tmp_path, ["-m", "runtime.run", "--help"], PYTHONPATH=str(ROOT))
    assert done.returncode == 0 and "mine ran" not in done.stdout


@pytest.mark.parametrize(("module", "name"), [("compress.run", "export"), ("runtime.selftest", "targets")])
def test_an_empty_folder_hides_a_package_that_is_installed_as_editable(tmp_path, module, name):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(EDITABLE)
    (tmp_path / "folder" / name).mkdir(parents=True)
    done = start(tmp_path / "folder", ["-m", module, "--help"], PYTHONPATH=str(tmp_path / "site"))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: {tmp_path}/folder/{name} hides the package {name} of edgepress in {ROOT}; ")


def test_a_users_program_gets_an_exception_that_it_can_catch(tmp_path):
    (tmp_path / "runtime.py").write_text("print('mine ran')")
    program = "try:\n    import compress\nexcept ImportError as error:\n    print(error)"
    (tmp_path / "program.py").write_text(program)
    done = start(tmp_path, ["program.py"], PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path}/runtime.py hides the package runtime of edgepress")
