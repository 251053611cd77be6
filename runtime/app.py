"""python3 edgepress.pyz VERB ...: the commands of the device side from one file, for the bundle that it lies in."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from targets.errors import InputError

APP = "edgepress.pyz"
#: verb -> module, and what to put behind the bundle
VERBS = {
    "run": ("runtime.run", ()),
    "watch": ("runtime.run", ("--watch",)),
    "selftest": ("runtime.selftest", ()),
    "bench": ("runtime.bench", ()),
    "build": ("runtime.build", ()),
    "deploy": ("runtime.deploy", ()),
    "targets": ("targets.__main__", ()),
}
#: Verbs that do not begin with a bundle.
_OF_NONE = ("deploy", "targets")
_HELP = f"""usage: python3 {APP} VERB ...

  run INPUT...             ask the bundle about images, recordings or texts
  watch DIR --out FILE     process files as they appear in a folder
  selftest                 replay the golden inputs
  bench                    time it, and find the fastest backend and number of threads
  build                    build the TensorRT engines on this device
  deploy STORE BUNDLE      make it the current bundle of a store on this device
  targets                  list, show or check devices

VERB --help tells more. Outside a bundle, name one: python3 {APP} run BUNDLE INPUT..."""


def main() -> int:
    """Run the command line; the exit code."""
    given = sys.argv[1:]
    if not given or given[0] in ("-h", "--help"):
        print(_HELP)
        return 0 if given else 2
    verb, *rest = given
    if verb not in VERBS:
        raise InputError(f"unknown command {verb!r}; allowed: {', '.join(VERBS)}")
    module, options = VERBS[verb]
    sys.argv = [f"{APP} {verb}", *(_bundle() if verb not in _OF_NONE else []), *options, *rest]
    command: Callable[[], int] = import_module(module).main
    return command()


def _bundle() -> list[str]:
    """The folder of the file that runs, if it is a bundle: then nobody has to name it."""
    folder = Path(sys.argv[0]).absolute().parent
    return [str(folder)] if (folder / "manifest.json").is_file() else []
