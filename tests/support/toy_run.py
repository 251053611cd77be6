"""A command that runs a toy graph: toy_run.py CACHE STEPS PAUSE. The tests kill it and fill its disk."""

from __future__ import annotations

import sys
from pathlib import Path

from compress.pipeline import Cache, Runner
from compress.pipeline.plain import PlainView
from support.toys import walk_graph
from targets.errors import run_cli


def main() -> int:
    root, steps, pause = sys.argv[1:]
    print("ready", flush=True)
    Runner(walk_graph(int(steps), float(pause)), Cache(Path(root)), [PlainView(sys.stdout)]).run()
    return 0


run_cli(main)
