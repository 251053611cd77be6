"""Views for pipes, files and CI logs: plain lines."""

from __future__ import annotations

import time
from typing import TextIO

from compress.pipeline.events import (
    CacheCorrupt,
    Event,
    Level,
    Logged,
    RunFinished,
    RunStarted,
    StageCached,
    StageFailed,
    StageFinished,
    StageProgress,
    StageStarted,
    StageWorking,
)
from compress.pipeline.pace import Clock, Pace, duration
from targets.errors import one_line

_PROGRESS_EVERY = 10.0  # seconds
_SILENT_FOR = 8.0  # seconds; looks are 2 apart, so that no more than 10 go by


class QuietView:
    """A sink that prints warnings and corrupt cache entries only."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: Event) -> None:
        match event:
            case CacheCorrupt() | Logged(level=Level.WARNING):
                print(line_of(event), file=self._stream, flush=True)


class PlainView:
    """A sink that prints one line for each start and end of a stage, and progress at most every 10 seconds."""

    def __init__(self, stream: TextIO, clock: Clock = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._pace = Pace(clock)
        self._spoke = 0.0

    def __call__(self, event: Event) -> None:
        if isinstance(event, StageStarted):
            self._pace = Pace(self._clock)
            self._spoke = self._clock()
        match event:
            case StageProgress():
                self._progress(event)
            case StageWorking(stage=stage, seconds=seconds):
                self._working(stage, seconds)
            case _:
                self._spoke = self._clock()
                print(line_of(event), file=self._stream, flush=True)

    def _working(self, stage: str, seconds: float) -> None:
        if self._clock() - self._spoke < _SILENT_FOR:
            return
        self._spoke = self._clock()
        parts = (f"{stage}: {duration(seconds)}", self._pace.describe())
        print("  ".join(part for part in parts if part), file=self._stream, flush=True)

    def _progress(self, event: StageProgress) -> None:
        self._pace.update(event)
        if self._clock() - self._spoke < _PROGRESS_EVERY:
            return
        self._spoke = self._clock()
        print(f"{event.stage}: {self._pace.describe()}", file=self._stream, flush=True)


def line_of(event: Event) -> str:
    """One plain line that says what happened."""
    match event:
        case RunStarted(stages=stages):
            return f"stages: {', '.join(stages)}"
        case StageStarted(stage=stage, resumed=resumed):
            return f"{stage}: {'resumed' if resumed else 'started'}"
        case StageCached(stage=stage):
            return f"{stage}: cached"
        case StageFinished(stage=stage, seconds=seconds):
            return f"{stage}: done in {duration(seconds)}"
        case StageFailed(stage=stage, error=error):
            return one_line(f"{stage}: failed: {error}")
        case CacheCorrupt(stage=stage, path=path, reason=reason):
            return f"{stage}: warning: the cache entry {path} is corrupt ({reason}); making it again"
        case Logged(stage=stage, level=level, message=message):
            return ": ".join(part for part in (stage, "warning" if level is Level.WARNING else "", message) if part)
        case RunFinished(ok=ok, ran=ran, cached=cached, seconds=seconds):
            return f"{'finished' if ok else 'stopped'}: {ran} run, {cached} cached, {duration(seconds)}"
    return str(event)
