"""Errors that end a command: one line for the user and an exit code that scripts can rely on.

0 fine, 1 a gate failed, 2 wrong usage or input, 3 the environment lacks something.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn


class EdgepressError(Exception):
    """Base of every error that is meant for the user's eyes. The message is one line: what, where, what to do."""

    exit_code = 2


class InputError(EdgepressError):
    """The usage or an input is wrong; the user can mend it."""

    exit_code = 2


class EnvironmentLacks(EdgepressError):
    """The machine lacks something: a package, a device, disk space."""

    exit_code = 3


class GateFailed(EdgepressError):
    """A gate did not pass."""

    exit_code = 1


def run_cli(main: Callable[[], int]) -> NoReturn:
    """Run `main`, turn an EdgepressError into one line on standard error, and exit with its code."""
    try:
        code = main()
    except EdgepressError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except MemoryError as error:
        print(f"error: out of memory: {error or 'no details'}; ask for less at once", file=sys.stderr)
        code = EnvironmentLacks.exit_code
    except KeyboardInterrupt:
        print("interrupted: run the same command again to resume", file=sys.stderr)
        code = 130
    sys.exit(code)
