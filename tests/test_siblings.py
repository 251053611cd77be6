"""A user's own export.py or targets/ in the folder where a command runs is named, and never run in place of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgepress_siblings import SAID
from export.app import app_bytes

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


#: Presses Ctrl-C at the AT-th import behind the module that all packages ask first.
PRESS = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
left = int(os.environ["AT"])

def hook(event, arguments):
    global left
    if event == "import" and hasattr(sys.modules.get("edgepress_siblings"), "_place"):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGINT)

sys.addaudithook(hook)
"""
MODULES = ("compress.run", "compress.verify", "compress.search", "export.sign", "targets", "edgepress")
ON_DEVICE = ("run", "selftest", "bench", "build", "deploy")


@pytest.fixture(scope="module")
def press(tmp_path_factory):
    """A folder of commands, and how to start one that is interrupted at its AT-th import."""
    folder = tmp_path_factory.mktemp("press")
    (folder / "sitecustomize.py").write_text(PRESS)
    (folder / "edgepress").write_text("from edgepress.command import main\n\nmain()\n")
    (folder / "edgepress.pyz").write_bytes(app_bytes())
    return lambda at, *arguments: start(folder, arguments, PYTHONPATH=f"{folder}:{ROOT}", AT=str(at))


@pytest.mark.parametrize("at", [1, 20])
@pytest.mark.parametrize(
    "command",
    [
        *(["-m", module, "list"] for module in MODULES),
        *(["-m", f"runtime.{name}", "nothing"] for name in ON_DEVICE),
        ["edgepress", "run", "--help"],
        ["edgepress", "doctor"],
        ["edgepress.pyz", "run", "nothing"],
    ],
    ids=" ".join,
)
def test_ctrl_c_while_a_command_is_imported_is_one_line(press, command, at):
    done = press(at, *command)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", f"{SAID}\n")


@pytest.mark.parametrize("script", ["import compress.run", "import runtime.session"])
def test_a_users_program_that_is_interrupted_while_it_imports_gets_the_exception(press, tmp_path, script):
    (tmp_path / "program.py").write_text(f"try:\n    {script}\nexcept KeyboardInterrupt:\n    print('caught')")
    done = press(4, str(tmp_path / "program.py"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "caught\n", "")


def test_a_command_that_ignores_ctrl_c_goes_on_ignoring_it(press, tmp_path):
    (tmp_path / "program.py").write_text(
        "import runpy, signal, sys\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nsys.argv[:] = ['edgepress', 'list']\n"
        "import targets\nrunpy.run_module('targets', run_name='__main__')"
    )
    done = press(4, str(tmp_path / "program.py"))
    assert done.returncode == 0 and "jetson" in done.stdout


def test_a_users_program_gets_an_exception_that_it_can_catch(tmp_path):
    (tmp_path / "runtime.py").write_text("print('mine ran')")
    program = "try:\n    import compress\nexcept ImportError as error:\n    print(error)"
    (tmp_path / "program.py").write_text(program)
    done = start(tmp_path, ["program.py"], PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path}/runtime.py hides the package runtime of edgepress")
