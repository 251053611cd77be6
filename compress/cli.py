"""How the commands of the workstation side start and how they fail. They take `typer` from here."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from edgepress_siblings import INTERRUPTED
from targets.cli import program
from targets.errors import UNREAD, InputError, report, run_cli

try:
    import typer
except ModuleNotFoundError as error:  # while a command is still being imported: nothing else can tell it
    sys.exit(report(error))

__all__ = ["start", "typer"]


def start(command: Callable[..., int], module: str, **app: Any) -> NoReturn:
    """Run `python -m module` and exit with the command's code; mistakes of the command line are reported in one
    line."""
    commands = typer.Typer(add_completion=False, pretty_exceptions_enable=False, **app)
    commands.command()(command)
    run_cli(lambda: _guarded(commands, program(f"python -m {module}")))


def _guarded(commands: typer.Typer, name: str) -> int:
    usage_error: Any = typer.BadParameter.__base__
    _check_given(sys.argv[1:])
    try:
        code = int(commands(standalone_mode=False, prog_name=name) or 0)
    except usage_error as error:
        raise InputError(f"{error.format_message().rstrip('.')}. See {name} --help.") from error
    except typer.Abort as error:
        raise KeyboardInterrupt from error
    except SystemExit as error:
        if _of_closed_pipe(error):
            return UNREAD
        raise
    if code == INTERRUPTED:  # what typer makes of Ctrl-C
        raise KeyboardInterrupt
    return code


def _of_closed_pipe(error: SystemExit) -> bool:
    """Whether click or rich made this out of a pipe that nobody reads any more: their 1 is a gate's that failed."""
    return isinstance(error.__context__, OSError) and error.__context__.errno == errno.EPIPE


def _check_given(arguments: list[str]) -> None:
    """Refuse an option whose value is empty, such as `--out "$UNSET"`: as a path it would be the working folder."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if argument == "" or (argument.startswith("--") and argument.endswith("=")):
            option = argument.rstrip("=") or before
            raise InputError(f"{option or 'the first argument'} has no value: it is empty; give one or leave it out")
