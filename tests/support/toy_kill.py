"""toy_kill.py FOLDER: runs the short walk on copies of FOLDER/start, killed at the first file operation, the second ...

The caches that the killed runs leave are FOLDER/1, FOLDER/2, ...; the last is of a run that came to its end.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
from pathlib import Path

from compress.pipeline import Cache, Runner
from support.toys import short_walk

_OPERATIONS = ("os.", "open", "shutil.", "fcntl.", "tempfile.")


def run_and_die_at(root: Path, moment: int) -> bool:
    """Run in a child that is killed at its n-th file operation; whether it lived that long."""
    child = os.fork()
    if child == 0:
        countdown = itertools.count(1)

        def hook(event: str, _: object) -> None:
            if event.startswith(_OPERATIONS) and event != "os.kill" and next(countdown) == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        Runner(short_walk(), Cache(root)).run()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) and status != 0:
        raise SystemExit(f"the run killed at {moment} failed by itself")
    return os.WIFSIGNALED(status)


folder = Path(sys.argv[1])
for moment in itertools.count(1):
    shutil.copytree(folder / "start", folder / str(moment))
    if not run_and_die_at(folder / str(moment), moment):
        break
