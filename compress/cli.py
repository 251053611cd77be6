"""How the commands of the workstation side start and how they fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import typer

from targets.errors import InputError, run_cli


def start(command: Callable[..., int], module: str, **app: Any) -> NoReturn:
    """Run `python -m module` and exit with the command's code; mistakes of the command line are told in one line."""
    program = typer.Typer(add_completion=False, pretty_exceptions_enable=False, **app)
    program.command()(command)
    run_cli(lambda: _guarded(program, f"python -m {module}"))


def _guarded(program: typer.Typer, name: str) -> int:
    usage_error: Any = typer.BadParameter.__base__
    try:
        return int(program(standalone_mode=False, prog_name=name) or 0)
    except usage_error as error:
        raise InputError(f"{error.format_message()} See {name} --help.") from error
    except typer.Abort as error:
        raise KeyboardInterrupt from error
