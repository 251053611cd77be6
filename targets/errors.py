"""Errors that end a command: one line for the user and an exit code that scripts can rely on.

0 fine, 1 a gate failed, 2 wrong usage or input, 3 the environment lacks something.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from typing import NoReturn, TextIO


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
    """Run `main`, turn an EdgepressError into one line on standard error, and exit with its code; 141 in silence, as
    other commands do, once nobody reads standard output any more (`| head`)."""
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
    except BrokenPipeError:
        if not _unread(sys.stdout):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where Python writes what is left at its end
        code = 141
    sys.exit(code)


def _unread(stream: TextIO) -> bool:
    """Whether nobody reads what is written to a pipe any more."""
    poll = select.poll()
    poll.register(stream, 0)
    return bool(poll.poll(0))  # asked for nothing: what comes are errors and hang-ups
