"""edgepress doctor: what this machine has, what it lacks, and how to get it."""

from __future__ import annotations

import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from importlib import metadata

from targets.cli import Parser
from targets.errors import EdgepressError, run_cli

#: Free bytes below which the cache will probably not do.
_ROOM = 5 << 30


def main() -> int:
    """Run the command line; 3 if a workstation lacks something that `edgepress run` needs, else 0."""
    Parser(prog="python -m edgepress.verbs.doctor", description="What this machine has and lacks.").parse_args()
    lacking = 0
    for state, line in _lines():
        lacking += state == "lacking"
        print(f"{state:9}{line}")
    return 3 if lacking else 0


def _lines() -> Iterator[tuple[str, str]]:
    yield "ok", f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    yield from _packages()
    yield from _device()
    yield from _cache()


def _packages() -> Iterator[tuple[str, str]]:
    """Those that the extra `compress` brings, and the optional ones by their extra."""
    seen = set[str]()
    for requirement in metadata.requires("edgepress") or []:
        match = re.match(r"([\w-]+)[^;]*(?:;.*extra == ['\"]([\w-]+)['\"])?", requirement)
        name, extra = (match[1], match[2]) if match else (requirement, None)
        if extra in ("dev", "edgepress") or name == "edgepress" or name in seen:
            continue
        seen.add(name)
        try:
            yield "ok", f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            wanted = extra in (None, "compress")
            yield "lacking" if wanted else "optional", f"{name}: pip install {f'edgepress[{extra}]' if extra else name}"


def _device() -> Iterator[tuple[str, str]]:
    """The target that this machine looks like, and what it lacks to be one."""
    import targets
    from targets.check import detect, lacking
    from targets.machine import probe, usable_cpus

    try:
        machine = probe()
        target = detect(targets.load_all(), machine)
    except EdgepressError as error:
        yield "lacking", str(error)
        return
    yield "ok", f"target {target.name}, {usable_cpus()} CPUs"
    yield from (("lacking", line) for line in lacking(target, machine))


def _cache() -> Iterator[tuple[str, str]]:
    from runtime.files import cache_root, explain

    root = cache_root()
    place = next(one for one in (root, *root.absolute().parents) if one.exists())
    try:
        with tempfile.TemporaryDirectory(prefix=".edgepress-", dir=place):
            pass
    except OSError as error:
        yield "lacking", str(explain(error, root))
        return
    free = shutil.disk_usage(place).free
    room = f"{free / 1e9:.0f} GB free for the cache in {root}"
    yield ("ok", room) if free > _ROOM else ("lacking", f"{room}; set EDGEPRESS_CACHE to a larger disk")


if __name__ == "__main__":
    run_cli(main)
