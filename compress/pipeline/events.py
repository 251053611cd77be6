"""What happens during a run. Every view, log and report is a consumer (`Sink`) of these."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Level(StrEnum):
    """Weight of a logged message."""

    INFO = "info"
    WARNING = "warning"


@dataclass(frozen=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True)
class RunStarted(Event):
    """The graph is sound and its stages will run in this order."""

    stages: Mapping[str, str]
    """Name of each stage -> what it does, in order."""


@dataclass(frozen=True)
class StageStarted(Event):
    """A stage begins to work."""

    stage: str
    resumed: bool
    """It finds its own earlier checkpoints."""


@dataclass(frozen=True)
class StageCached(Event):
    """A stage's artifact was at hand; no work."""

    stage: str


@dataclass(frozen=True)
class StageProgress(Event):
    """A stage is `done` out of `total`, in a unit of its own (`total` 0: unknown)."""

    stage: str
    done: float
    total: float
    note: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StageWorking(Event):
    """A stage has said nothing for some seconds, and goes on."""

    stage: str
    seconds: float
    """Since it began."""


@dataclass(frozen=True)
class StageFinished(Event):
    """A stage's artifact is in the cache."""

    stage: str
    seconds: float


@dataclass(frozen=True)
class StageFailed(Event):
    """A stage ended with an error (or an interrupt); it left no artifact."""

    stage: str
    error: str


@dataclass(frozen=True)
class CacheCorrupt(Event):
    """A cached artifact is not what was put there; it is removed and made again."""

    stage: str
    path: str
    reason: str


@dataclass(frozen=True)
class Logged(Event):
    """A stage (or the run itself, `stage` "") has something to say."""

    stage: str
    level: Level
    message: str


@dataclass(frozen=True)
class RunFinished(Event):
    """The run is over; it is the last event even when a stage failed (`ok` false)."""

    ok: bool
    ran: int
    cached: int
    seconds: float


Sink = Callable[[Event], None]
