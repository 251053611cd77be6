"""Where frames come from, one file per kind of source, which `open_source` of that file opens.

`runtime.run BUNDLE --source S` names one: a folder, `-`, `v4l2:/dev/video0`, `rtsp://...` or a video file.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Protocol

from runtime.images.frame import Frame
from targets.errors import EdgepressError, InputError


class Source(Protocol):
    """Frames one after the other, until there are no more. What cannot be read is an error in its place, and the
    stream goes on behind it; an error that is raised ends it."""

    name: str

    def frames(self) -> Iterator[Frame | EdgepressError]:
        """The frames. Raises InputError or EnvironmentLacks where the source itself ends before its time."""
        ...


def open_source(given: str) -> Source:
    """The source of that name. Raises InputError for what is none, EnvironmentLacks without what it needs."""
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda one: one.name):
        source: Source | None = importlib.import_module(f"{__name__}.{module.name}").open_source(given)
        if source is not None:
            return source
    raise InputError(
        f"no source {given!r}; allowed: a folder, a video file, - for PPM pictures on standard input, "
        "v4l2:/dev/video0, rtsp://..."
    )
