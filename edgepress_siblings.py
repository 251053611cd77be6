"""What every package of edgepress asks before it imports anything else. This module stands outside of them all.

The packages have plain names, so that a user's own `export.py` or `targets/` can be taken for one: a package that is
hidden cannot say so, its siblings can. And a command imports for a while before it runs, when nothing in it can catch
Ctrl-C; so this module sees to that first, and imports hardly anything before.
"""

from __future__ import annotations

import os
import signal
import sys
from itertools import pairwise

TYPE_CHECKING = False  # the module typing would be loaded for this alone
if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = ("compress", "edgepress", "export", "runtime", "targets")
#: The exit code of what was interrupted, and what is said then.
INTERRUPTED, SAID = 130, "Interrupted: run the same command again to resume."


def leave_when_interrupted() -> None:
    """Let Ctrl-C end the process at once, with one line: while a command is imported, and when it is done."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, or the user's own
        signal.signal(signal.SIGINT, _leave)


def raise_when_interrupted() -> None:
    """Let Ctrl-C raise KeyboardInterrupt, as Python does by itself."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(number: int, frame: object) -> None:
    try:  # noqa: SIM105 - contextlib may be the very module that is being imported
        os.write(2, f"{SAID}\n".encode())
    except OSError:  # nobody is there to read it
        pass
    os._exit(INTERRUPTED)


def _is_command() -> bool:
    """Whether Python runs a command of edgepress, and not a program of the user's that imports one of its packages."""
    if sys.argv[:1] != ["-m"]:  # what Python puts there until it has found the module to run
        return bool(sys.argv) and sys.argv[0].rpartition("/")[2] == "edgepress"
    named = [after for before, after in pairwise(sys.orig_argv) if before[:1] == "-" and before.endswith("m")]
    return any(name.split(".")[0] in PACKAGES for name in named)


if _is_command():
    leave_when_interrupted()


def check(package: str, *siblings: str) -> None:
    """`package` is the `__file__` of the package that asks. Nothing is imported: the user's file does not run.

    Raises ImportError for a sibling that would be taken from elsewhere; `python -m` ends with that line and code 2.
    """
    from pathlib import Path

    home = Path(package).absolute().parents[1]
    for name in siblings:
        found = _place(name)
        if found is None or found in (home / name, home / name / "__init__.py"):
            continue
        told = f"{found} hides the package {name} of edgepress in {home}; rename it, or run from another folder"
        if sys.argv[:1] != ["-m"]:
            raise ImportError(told)
        print(f"error: {told}", file=sys.stderr)
        sys.exit(2)


def _place(name: str) -> Path | None:
    """The file or folder that an import of this name would read."""
    from importlib.util import find_spec
    from pathlib import Path

    spec = find_spec(name)
    if spec is None:
        return None
    return Path(spec.origin or next(iter(spec.submodule_search_locations or [name]))).absolute()
