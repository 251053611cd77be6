"""Which modules of the project run code."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).parents[2]
PACKAGES = ("compress", "export", "runtime", "targets")


@contextmanager
def modules_run() -> Iterator[set[str]]:
    """The modules, but those of the pipeline, of which code runs meanwhile: in this thread and in new ones."""
    files: set[str] = set()
    found: set[str] = set()

    def called(frame: FrameType, event: str, argument: object) -> None:
        files.add(frame.f_code.co_filename)

    before = sys.gettrace()
    sys.settrace(called)
    threading.settrace(called)
    try:
        yield found
    finally:
        sys.settrace(before)
        threading.settrace(before)  # type: ignore[arg-type]
        found |= {name for file in files if (name := _module(file)) is not None}


def _module(file: str) -> str | None:
    path = Path(file)
    if path.suffix != ".py" or not path.is_relative_to(ROOT) or path.relative_to(ROOT).parts[0] not in PACKAGES:
        return None
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    return None if name.startswith("compress.pipeline") else name
