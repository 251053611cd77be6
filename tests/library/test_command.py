"""The command `edgepress`: quick to start, one line for what is wrong, the same exit codes as all others."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from edgepress.command import VERBS, offered

ROOT = Path(__file__).parents[2]


def edgepress(*arguments: str, cwd: Path = ROOT, **more: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), **more}
    command = [sys.executable, "-m", "edgepress", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


def seconds_of(*arguments: str) -> float:
    """Processor time of a call, which a busy machine does not change."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert edgepress(*arguments).returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("arguments", [("--help",), ("targets", "list"), ("recipes",)], ids=" ".join)
def test_what_is_asked_often_starts_in_half_a_second(arguments: tuple[str, ...]) -> None:
    assert seconds_of(*arguments) < 0.5


def test_importing_the_library_is_quick_and_brings_in_nothing_heavy() -> None:
    ask = (
        "import sys, time; start = time.process_time(); import edgepress; took = time.process_time() - start; "
        "heavy = {'torch', 'numpy', 'pydantic', 'transformers', 'onnxruntime', 'rich', 'typer'} & set(sys.modules); "
        "print(took < 0.1, sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", ask], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split(maxsplit=1) == ["True", "[]\n"]


def test_the_help_names_every_verb_that_is_here() -> None:
    shown = edgepress("--help").stdout
    assert all(f"\n  {name} " in shown for name in offered())
    assert (
        {"run", "verify", "ask", "bench", "selftest", "build", "targets", "doctor"} <= offered().keys() <= VERBS.keys()
    )


def test_without_a_verb_it_shows_its_help_and_fails() -> None:
    done = edgepress()
    assert done.returncode == 2 and done.stdout.startswith("usage: edgepress VERB")


def test_a_verb_that_does_not_exist_is_one_line_with_the_nearest() -> None:
    done = edgepress("verfy")
    assert done.returncode == 2
    assert (
        done.stderr.startswith("error: unknown verb 'verfy', did you mean 'verify'?") and done.stderr.count("\n") == 1
    )


@pytest.mark.parametrize("verb", ["ask", "targets"])
def test_a_mistake_names_the_command_that_was_typed(verb: str) -> None:
    done = edgepress(verb, "--nonsense")
    assert done.returncode == 2
    assert done.stderr.strip().endswith(f"see edgepress {verb} --help")


def test_a_recipe_is_printed_in_each_of_its_forms() -> None:
    done = edgepress("recipes", "hybrid")
    assert done.stdout == "# decoder/hybrid.toml\n" + (ROOT / "compress/recipes/decoder/hybrid.toml").read_text()
    assert edgepress("recipes", "hybird").stderr.count("did you mean 'hybrid'") == 1


def test_the_options_of_a_rewrite_are_shown_with_their_defaults() -> None:
    shown = edgepress("rewrites", "hybrid").stdout
    assert "window            int, above 0                64" in shown


def test_the_doctor_tells_what_is_there() -> None:
    done = edgepress("doctor")
    assert done.returncode in (0, 3)
    assert f"ok       Python {sys.version.split()[0]}" in done.stdout


@pytest.mark.parametrize("place", ["/proc/none", "/dev/null/x"])
def test_the_doctor_misses_a_cache_that_cannot_be_written(place: str) -> None:
    done = edgepress("doctor", EDGEPRESS_CACHE=place)
    assert done.returncode == 3
    assert f"lacking  cannot write the cache {place}: " in done.stdout and "set EDGEPRESS_CACHE" in done.stdout


def test_the_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    assert edgepress("--version").stdout == version("edgepress") + "\n"
