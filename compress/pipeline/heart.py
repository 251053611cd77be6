"""A stage that is silent for long still shows that it works."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from compress.pipeline.events import Event, Sink, StageWorking

#: Seconds between two looks; a view hears of a stage at least this often.
_EVERY = 2.0


@contextmanager
def beating(stage: str, emit: Sink) -> Iterator[Sink]:
    """A sink in place of `emit`, for as long as the stage works: whenever nothing came through it for a while, it tells
    that the stage still works. One event at a time reaches `emit`, from whichever thread."""
    lock, ended, began = threading.Lock(), threading.Event(), time.monotonic()
    last = began

    def passed_on(event: Event) -> None:
        nonlocal last
        with lock:
            last = time.monotonic()
            emit(event)

    def beat() -> None:
        while not ended.wait(_EVERY):
            with lock:
                now = time.monotonic()
                if now - last >= _EVERY and not ended.is_set():
                    emit(StageWorking(stage, now - began))

    thread = threading.Thread(target=beat, name=f"heart of {stage}", daemon=True)
    thread.start()
    try:
        yield passed_on
    finally:
        ended.set()
        thread.join()
