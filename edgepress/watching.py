"""What a caller sees of a run while it goes on, and how it is stopped."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from edgepress_siblings import INTERRUPTED
from targets.errors import EdgepressError

if TYPE_CHECKING:
    from compress.pipeline.events import Event, Sink

#: True shows the run on standard error, False shows nothing; a function is handed every event.
Progress = bool | Callable[["Event"], None]


class Cancel(Protocol):
    """What says that a run is to stop, such as a `threading.Event`."""

    def is_set(self) -> bool: ...


class Cancelled(EdgepressError):
    """The caller stopped the run. What was finished is cached: the same call goes on from there."""

    exit_code = INTERRUPTED


def sinks_for(progress: Progress, cancel: Cancel | None) -> list[Sink]:
    """The consumers of a run's events."""
    found: list[Sink] = []
    if progress is True:
        from compress.pipeline.view import view

        found.append(view(sys.stderr))
    elif progress is not False:
        found.append(progress)
    return found if cancel is None else [*found, _Stop(cancel)]


class _Stop:
    """Raises Cancelled at the first event after the caller asked for it, in the thread that runs the stages."""

    def __init__(self, cancel: Cancel) -> None:
        self._cancel = cancel
        self._thread = threading.get_ident()
        self._told = False

    def __call__(self, event: Event) -> None:
        if self._told or threading.get_ident() != self._thread or not self._cancel.is_set():
            return
        self._told = True
        raise Cancelled("the run was cancelled; the same call goes on where it stopped")
