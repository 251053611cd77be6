"""Deploy one bundle over another and be killed at the n-th touch of the file system, for one n after the other.

    python tests/support/deploy_kills.py OLD NEW FOLDER MOMENTS

Prints JSON: how many touches a deployment makes, and of each moment what was current afterwards: "old", "new", or what
is wrong. Each child is a fork of this process, which has opened no model itself.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

from runtime.bundles.bundle import open_files
from runtime.field.store import BUNDLES, CURRENT, deploy, locked
from targets.errors import EdgepressError

EVENTS = ("open", "os.", "shutil.", "tempfile.", "fcntl.")


def check(bundle):
    from runtime.bundles.golden import check_golden, load_golden
    from runtime.session import open_session

    session = open_session(bundle, "cpu", threads=1)
    assert all(check_golden(session.run, load_golden(bundle), session.max_batch))


def run(store, bundle, die_at):
    """Deploy in a fork that dies at this touch; how many touches it made (-1: it was killed)."""
    report, tell = os.pipe()
    child = os.fork()
    if child == 0:
        touches = 0

        def hook(event, arguments):
            nonlocal touches
            if event.startswith(EVENTS):
                touches += 1
                if touches == die_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        with locked(store) as held:
            deploy(held, open_files(bundle), check, 1)
        os.write(tell, str(touches).encode())
        os._exit(0)
    os.close(tell)
    with os.fdopen(report) as stream:
        said = stream.read()
    status = os.waitpid(child, 0)[1]
    if said:
        return int(said)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
    return -1


def state(store, names):
    """What is current: whole, and one of the two."""
    try:
        bundle = open_files(store / CURRENT)
    except EdgepressError as error:
        return str(error)
    return names.get(bundle.root.name, f"unknown bundle {bundle.root}")


def main():
    old, new, folder, moments = (*map(Path, sys.argv[1:4]), int(sys.argv[4]))
    first = folder / "first"
    run(first, old, 0)
    names = {next((first / BUNDLES).iterdir()).name: "old"}
    whole = folder / "whole"
    shutil.copytree(first, whole, symlinks=True)
    touches = run(whole, new, 0)
    names[(whole / CURRENT).readlink().name] = "new"
    found = []
    for at in range(moments):
        store = folder / "store"
        shutil.copytree(first, store, symlinks=True)
        moment = 1 + at * (touches - 1) // max(1, moments - 1)
        run(store, new, moment)
        outcome = state(store, names)
        assert run(store, new, 0) > 0 and state(store, names) == "new"  # nothing left stands in the way
        left = sorted(path.name for path in (store / BUNDLES).iterdir())
        found.append(outcome if left == sorted(names) else f"{outcome}, and {left} is left")
        shutil.rmtree(store)
    print(json.dumps({"touches": touches, "found": found}))


main()
