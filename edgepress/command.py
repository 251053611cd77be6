"""The command `edgepress VERB ...`, one door to all commands: a verb is a module that also runs as `python -m`."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from typing import NamedTuple, NoReturn

from targets.errors import InputError, run_cli


class Verb(NamedTuple):
    """The module that does it, and what it does in one line."""

    module: str
    does: str


#: In the order of the help. A verb whose module is not installed, as on a device, is not offered.
VERBS = {
    "run": Verb("compress.run", "shrink, heal, export, verify and bundle a trained transformer"),
    "verify": Verb("compress.verify", "hold one model against another, or fail"),
    "search": Verb("compress.search", "find the recipe that fits a budget"),
    "ask": Verb("runtime.run", "ask a bundle about images, recordings or texts"),
    "selftest": Verb("runtime.selftest", "replay a bundle's golden inputs"),
    "bench": Verb("runtime.bench", "time a bundle on this machine"),
    "build": Verb("runtime.build", "build a bundle's TensorRT engines on this device"),
    "deploy": Verb("runtime.deploy", "put a bundle into service, and take it back"),
    "sign": Verb("export.sign", "sign a bundle"),
    "targets": Verb("targets", "list, show or check devices"),
    "recipes": Verb("edgepress.verbs.recipes", "list the built-in recipes, or show one"),
    "rewrites": Verb("edgepress.verbs.rewrites", "list the rewrites, or show the options of one"),
    "models": Verb("edgepress.verbs.models", "list the kinds of models that are read, and the zoo"),
    "doctor": Verb("edgepress.verbs.doctor", "say what this machine has and what it lacks"),
    "completion": Verb("edgepress.verbs.completion", "print what completes this command in a shell"),
}


def offered() -> dict[str, Verb]:
    """The verbs whose modules are here."""
    return {name: verb for name, verb in VERBS.items() if _is_here(verb.module)}


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    if len(sys.argv) > 1 and sys.argv[1] in (verbs := offered()):
        name = sys.argv[1]
        sys.argv = [f"edgepress {name}", *sys.argv[2:]]
        runpy.run_module(verbs[name].module, run_name="__main__")
        sys.exit(0)
    run_cli(_without_verb)


def _without_verb() -> int:
    given = sys.argv[1:]
    if given == ["--version"]:
        from edgepress import __version__

        print(__version__)
        return 0
    if given and given[0] not in ("-h", "--help"):
        raise InputError(f"unknown verb {given[0]!r}{_meant(given[0])}; allowed: {', '.join(offered())}")
    print(_help())
    return 0 if given else 2


def _meant(word: str) -> str:
    import difflib

    near = difflib.get_close_matches(word, offered(), 1)
    return f", did you mean {near[0]!r}?" if near else ""


def _help() -> str:
    rows = "\n".join(f"  {name:12}{verb.does}" for name, verb in offered().items())
    return (
        "usage: edgepress VERB ...\n\n"
        "Make a trained transformer smaller, prove what it lost, and ship it to a device.\n\n"
        f"{rows}\n\nedgepress VERB --help says more; edgepress --version prints the version."
    )


def _is_here(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it is not installed
        return False
