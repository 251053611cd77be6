"""How every command ends: one line, and an exit code of which 1 means that a gate failed and nothing else."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from targets.errors import MOST_CHARACTERS, one_line, printable

ENV = {"PYTHONPATH": ":".join(sys.path)}


def command(body: str, **more: object) -> subprocess.CompletedProcess[str]:
    """Run a command line whose main is `body`."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    code = f"import os, signal, sys, time\nfrom targets import errors\ndef main():\n{lines}\nerrors.run_cli(main)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, **more)


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        ("errors.GateFailed('a')", 1),
        ("errors.InputError('a')", 2),
        ("errors.EnvironmentLacks('a')", 3),
        ("MemoryError()", 3),
        ("OSError(28, 'full', 'x')", 3),
        ("PermissionError(13, 'denied', 'x')", 2),
        ("ZeroDivisionError('a')", 70),
        ("FileNotFoundError(2, 'no', 'x')", 70),
        ("RuntimeError('1\\n2')", 70),
        ("AssertionError()", 70),
        ("KeyboardInterrupt", 130),
    ],
)
def test_whatever_is_raised_is_one_line_with_its_own_exit_code(raised: str, code: int, tmp_path: Path) -> None:
    done = command(f"raise {raised}", env={"TMPDIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path)})
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_a_fault_of_edgepress_leaves_its_traceback_in_a_file_that_the_line_names(tmp_path: Path) -> None:
    done = command("{}['weights']", env={"TMPDIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path)})
    assert done.returncode == 70
    named = re.search(r"a fault of edgepress: KeyError: 'weights'; the traceback is in (\S+), please", done.stderr)
    assert named is not None, done.stderr
    text = Path(named[1]).read_text()
    assert "Traceback (most recent call last)" in text and "{}['weights']" not in done.stderr


def test_where_no_file_can_be_written_the_traceback_of_a_fault_is_printed(tmp_path: Path) -> None:
    body = "import tempfile\ndef none(**_):\n    raise OSError('no')\ntempfile.mkstemp = none\n1 / 0"
    done = command(body)
    assert done.returncode == 70 and "ZeroDivisionError" in done.stderr and "Traceback" in done.stderr


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """The environment of an installed edgepress: what pip leaves of its extras."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    lines = ["Metadata-Version: 2.1", "Name: edgepress", "Version: 0.1.0"]
    for extra, needed in project["optional-dependencies"].items():
        lines += [f'Requires-Dist: {one.split(";")[0]}; extra == "{extra}"' for one in needed]
    (tmp_path / "edgepress-0.1.0.dist-info").mkdir()
    (tmp_path / "edgepress-0.1.0.dist-info" / "METADATA").write_text("\n".join(lines))
    return {"PYTHONPATH": ":".join([str(tmp_path), str(Path(__file__).parents[2]), *sys.path])}


def test_a_missing_package_exits_3_with_the_command_that_installs_it(installed: dict[str, str]) -> None:
    done = command("sys.modules['sklearn'] = None\nimport sklearn.svm", env=installed)
    assert done.returncode == 3
    line = done.stderr.strip()
    assert line == "error: the package scikit-learn is not installed; run: pip install 'edgepress[compress]'"


def test_a_missing_package_of_no_extra_is_installed_by_its_own_name() -> None:
    done = command("import of_no_extra.at_all")
    assert done.returncode == 3
    assert done.stderr == "error: the package of_no_extra is not installed; run: pip install of_no_extra\n"


def test_a_missing_module_of_edgepress_itself_is_its_own_fault() -> None:
    assert command("import compress.of_nothing").returncode == 70


@pytest.mark.parametrize("module", ["compress.run", "compress.verify"])
def test_without_typer_a_command_exits_3_before_it_starts(module: str, installed: dict[str, str]) -> None:
    code = f"import runpy, sys; sys.modules['typer'] = None; runpy.run_module('{module}', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=installed)
    assert (done.returncode, done.stderr) == (
        3,
        "error: the package typer is not installed; run: pip install 'edgepress[compress]'\n",
    )


def test_a_request_to_end_is_an_interruption() -> None:
    done = command("os.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(30)")
    assert (done.returncode, done.stderr) == (130, "Interrupted: run the same command again to resume.\n")


def test_ctrl_c_in_a_command_of_the_workstation_says_how_to_go_on() -> None:
    code = (
        "import signal\nimport time\nfrom compress.cli import start\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it\n"
        "def main() -> int:\n    print('ready', flush=True)\n    time.sleep(30)\n    return 0\n"
        "start(main, 'compress.run')"
    )
    for ending in (signal.SIGINT, signal.SIGTERM):
        child = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        child.send_signal(ending)
        _, told = child.communicate(timeout=30)
        assert (child.returncode, told.strip()) == (130, "Interrupted: run the same command again to resume.")


def test_standard_output_that_is_full_closed_or_ascii_ends_in_no_traceback() -> None:
    with Path("/dev/full").open("w") as full:
        code = "from targets.errors import run_cli; run_cli(lambda: print('a' * 99) or 0)"
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (3, "error: no space left for standard output; free some and run again\n")
    code = "from targets.errors import run_cli; run_cli(lambda: print('Grüße') or 0)"
    closed = subprocess.run(["sh", "-c", f'"{sys.executable}" -c "{code}" >&-'], capture_output=True, timeout=60)
    assert (closed.returncode, closed.stderr) == (0, b"")
    ascii_only = {"PYTHONIOENCODING": "ascii", "PYTHONPATH": ":".join(sys.path)}
    assert command("print('Grüße')\nreturn 0", env=ascii_only).stdout == "Gr\\xfc\\xdfe\n"


@pytest.mark.parametrize(
    ("raised", "code"), [("errors.InputError('a')", 2), ("KeyError('a')", 70), ("KeyboardInterrupt", 130)]
)
def test_standard_error_that_is_full_does_not_change_the_exit_code(raised: str, code: int, tmp_path: Path) -> None:
    lines = f"from targets import errors\ndef main():\n    raise {raised}\nerrors.run_cli(main)"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", lines], stderr=full, timeout=60, env={**ENV, "TMPDIR": str(tmp_path)}
        )
    assert done.returncode == code


@pytest.mark.parametrize(
    "body",
    [
        "for _ in range(9999): print('a' * 99)",
        "from rich.console import Console\nfor _ in range(9999): Console().print('a' * 99)",
        "import sys\nfor _ in range(9999): print('a' * 99, file=sys.stderr)",
    ],
)
def test_a_command_that_nobody_reads_ends_with_the_code_of_other_commands(body: str) -> None:
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    code = f"from compress.cli import start\ndef main() -> int:\n{lines}\n    return 0\nstart(main, 'compress.run')"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert child.stdout is not None
    child.stdout.readline()
    child.stdout.close()
    assert child.wait(60) == 141


def test_control_characters_of_an_input_never_reach_the_terminal() -> None:
    done = command("raise errors.InputError('no model \\x1b[2J\\x07\\u202egnp')")
    assert done.stderr == "error: no model \\x1b[2J\\x07\\u202egnp\n"
    assert printable("Grüße\t年\n👩‍🔬") == "Grüße\t年\n👩‍🔬"


def test_a_message_is_one_line_that_keeps_both_its_ends() -> None:
    long = one_line("model is wrong\n" + "x" * 5000 + "\nsave it again")
    assert len(long) == MOST_CHARACTERS
    assert long.startswith("model is wrong; xxx") and long.endswith("x; save it again")
    assert one_line("short") == "short"


@pytest.mark.parametrize("given", [["--out", ""], ["--out="]])
def test_an_empty_value_is_no_path(given: list[str]) -> None:
    code = f"import sys; sys.argv = ['x', *{given!r}]; from compress.cli import start; start(lambda: 0, 'compress.run')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (
        2,
        "error: --out has no value: it is empty; give one or leave it out\n",
    )
