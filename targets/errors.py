"""Errors that end a command: one line for the user and an exit code that scripts can rely on.

0 fine, 1 a gate failed, 2 wrong usage or input, 3 the environment lacks something, 70 a fault of edgepress itself,
130 interrupted.
"""

from __future__ import annotations

import errno
import os
import re
import select
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TextIO

from edgepress_siblings import INTERRUPTED, PACKAGES, SAID, leave_when_interrupted, raise_when_interrupted

#: sysexits.h: EX_SOFTWARE.
FAULT = 70
#: As a shell counts what SIGPIPE ended.
UNREAD = 141
MOST_CHARACTERS = 300
#: Modules whose package has another name.
_PACKAGES = {"PIL": "pillow", "sklearn": "scikit-learn", "google": "protobuf"}
# C0 and C1 controls except tab and line feed, line separators, marks that turn the direction, half surrogates.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


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
    """Run `main` and exit with its code. Whatever it raises becomes one line on standard error and the code above;
    141 in silence, as with other commands, once nobody reads standard output any more (`| head`)."""
    _open_streams()
    signal.signal(signal.SIGTERM, _interrupt)
    raise_when_interrupted()
    try:
        code = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        leave_when_interrupted()  # whoever presses twice
        _say(SAID)
        code = INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the one place where what nobody foresaw ends: told, filed, never exit 1
        broken = isinstance(error, BrokenPipeError) and (_unread(sys.stdout) or _unread(sys.stderr))
        code = UNREAD if broken else report(error)
        if isinstance(error, OSError):
            _drop(sys.stdout)
    sys.exit(code)


def report(error: Exception) -> int:
    """Print the one line that an error deserves on standard error; the exit code."""
    known = _known(error)
    if known is not None:
        _say(one_line(f"error: {known}"))
        return known.exit_code
    cause = one_line(f"{type(error).__name__}: {error}", MOST_CHARACTERS // 2)
    _say(f"error: a fault of edgepress: {cause}; {_filed(error)}")
    return FAULT


def printable(text: str) -> str:
    """The text with control characters, other than tabs and line feeds, as escapes: for terminals and reports."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def one_line(text: str, most: int = MOST_CHARACTERS) -> str:
    """The text in one printable line. A longer one loses its middle: what happened and what to do stand at the ends."""
    line = printable("; ".join(part.strip() for part in text.splitlines() if part.strip()).replace("\t", " "))
    if len(line) <= most:
        return line
    tail = most // 3
    return f"{line[: most - tail - 3]} … {line[-tail:]}"


def _known(error: Exception) -> EdgepressError | None:
    """The error as one for the user's eyes, or None for a fault of edgepress."""
    if isinstance(error, EdgepressError):
        return error
    if isinstance(error, MemoryError):
        return EnvironmentLacks(f"out of memory: {error or 'no details'}; ask for less at once")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return EnvironmentLacks(f"no space left for {error.filename or 'standard output'}; free some and run again")
    if isinstance(error, PermissionError) and error.filename:
        return InputError(f"{error.filename}: permission denied; may this user read it, or write there?")
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return InputError(f"{str(error.filename)[:80]} ...: the name is too long for a file; check the path")
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.split(".")[0] not in PACKAGES:
        module = error.name.split(".")[0]
        package = _PACKAGES.get(module, module)
        return EnvironmentLacks(f"the package {package} is not installed; run: pip install {_source(package)}")
    return None


def _source(package: str) -> str:
    """What pip is to install: the extra of edgepress that brings the package, else the package."""
    from importlib import metadata

    try:
        needed = metadata.requires("edgepress") or []
    except metadata.PackageNotFoundError:
        needed = []
    for requirement in needed:
        match = re.match(rf"{re.escape(package)}\b.*extra == ['\"]([\w-]+)", requirement, re.IGNORECASE)
        if match:
            return f"'edgepress[{match[1]}]'"
    return package


def _filed(error: Exception) -> str:
    """Put the traceback into a file of its own; the words that name it."""
    import platform
    import shlex
    import tempfile
    import traceback

    text = f"{shlex.join(sys.argv)}\nPython {platform.python_version()}, {platform.platform()}\n\n"
    text += "".join(traceback.format_exception(type(error), error, error.__traceback__))
    try:
        handle, name = tempfile.mkstemp(prefix="edgepress-", suffix=".txt")
        with os.fdopen(handle, "w", errors="backslashreplace") as file:
            file.write(text)
    except OSError:
        _say(text)
        return "the traceback is above, for it could not be written to a file"
    return f"the traceback is in {name}, please report it"


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


def _open_streams() -> None:
    """Characters that a stream cannot show are escaped, and a closed one takes what is written to it."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 - open until the end
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _say(text: str) -> None:
    """Print on standard error. Where that is full or closed, the exit code alone must tell."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        _drop(sys.stderr)


def _drop(stream: TextIO) -> None:
    """Send what a stream still holds nowhere: Python writes it at its end, and would fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _unread(stream: TextIO) -> bool:
    """Whether nobody reads what is written to a pipe any more."""
    poll = select.poll()
    poll.register(stream, 0)
    return bool(poll.poll(0))  # asked for nothing: what comes are errors and hang-ups
