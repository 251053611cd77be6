"""Who does the work of a search: this process, or a cluster. A search hands over work and does not know which.

Every result is in the content-addressed cache, so whoever does the work, and however often it is lost on the way, the
same artifacts come back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from compress.pipeline import Artifact, Cache, Graph, Runner
from compress.pipeline.events import Sink
from compress.stages.job import Machine
from targets.errors import InputError


class Place(StrEnum):
    """What a piece of work needs: one core (LIGHT), what a model heals on (HEAVY), or a machine that does nothing else
    meanwhile (TIMING)."""

    LIGHT = "light"
    HEAVY = "heavy"
    TIMING = "timing"


@dataclass(frozen=True)
class Work:
    """The stages of `graph` up to `until`. `weight`: how long it takes, compared with what it is handed over with."""

    graph: Graph
    until: str | None = None
    place: Place = Place.LIGHT
    weight: float = 1.0


#: The artifacts by their stages, or why a stage refused its input.
Made = dict[str, Artifact] | InputError


class Executor(Protocol):
    """Does work."""

    @property
    def at_once(self) -> int:
        """How many pieces of heavy work go on at the same time."""
        ...

    def machine(self, place: Place) -> Machine:
        """Where work of this kind is done."""
        ...

    def each(self, works: Sequence[Work]) -> Iterator[Made]:
        """What comes of each, in their order. An error that is not about the input is raised, and ends what goes on."""
        ...


@dataclass(frozen=True)
class Here:
    """Does the work in this process, one piece after the other, each when it is asked for."""

    cache: Cache
    sinks: tuple[Sink, ...]
    seed: int

    at_once: int = 1

    def machine(self, place: Place) -> Machine:
        return Machine.here()

    def each(self, works: Sequence[Work]) -> Iterator[Made]:
        return (made(work, self.cache, self.sinks, self.seed) for work in works)


def made(work: Work, cache: Cache, sinks: Iterable[Sink], seed: int) -> Made:
    """Do a piece of work in this process."""
    try:
        return Runner(work.graph, cache, sinks, seed).run(work.until)
    except InputError as refusal:
        return refusal


def in_turn(works: Sequence[Work]) -> list[int]:
    """The places of the works in the order in which they are begun: the longest first, so that none of them is left at
    the end for one worker while the others wait."""
    return sorted(range(len(works)), key=lambda place: -works[place].weight)
