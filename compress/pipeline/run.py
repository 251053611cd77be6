"""Runs a graph: every stage whose result is not cached, in order."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from compress.pipeline.artifact import Artifact
from compress.pipeline.cache import Cache, Corrupt
from compress.pipeline.disk import describe, full_disk_named
from compress.pipeline.events import (
    CacheCorrupt,
    Event,
    Level,
    Logged,
    RunFinished,
    RunStarted,
    Sink,
    StageCached,
    StageFailed,
    StageFinished,
    StageStarted,
)
from compress.pipeline.graph import Graph
from compress.pipeline.heart import beating
from compress.pipeline.key import Key, Keymaker
from compress.pipeline.stage import Stage, StageContext


@dataclass(frozen=True)
class PlanRow:
    """What a run would do about one stage. `key` is None while the inputs of the stage do not exist yet."""

    name: str
    key: str | None
    cached: bool
    does: str
    why: str


class Runner:
    """Runs `graph` with results in `cache`; tells `sinks` what happens. The seed is part of every key."""

    def __init__(self, graph: Graph, cache: Cache, sinks: Iterable[Sink] = (), seed: int = 0) -> None:
        self._graph = graph
        self._cache = cache
        self._sinks = tuple(sinks)
        self._seed = seed

    def plan(self, until: str | None = None) -> list[PlanRow]:
        """What `run` would find and do now, without doing it. Raises as `Graph.check` does."""
        stages = self._checked(until)
        keymaker = self._keymaker(stages)
        made: dict[str, Artifact] = {}
        rows = []
        for stage in stages:
            key = None
            if all(maker in made for maker in stage.inputs.values()):
                key = keymaker.key(stage, _inputs(stage, made))
                found = self._cache.get(key, stage.produces)
                if isinstance(found, Artifact):
                    made[stage.name] = found
            digest = key.digest if key is not None else None
            rows.append(PlanRow(stage.name, digest, stage.name in made, stage.does, stage.why))
        return rows

    def run(self, until: str | None = None) -> dict[str, Artifact]:
        """Stage name -> artifact, for every stage that is not on demand, or for `until` and the stages that it needs.

        The first error of a stage ends the run and is raised as it is, except that a full disk becomes
        EnvironmentLacks. What was finished stays cached, and the failed stage finds its work folder again.
        Raises as `Graph.check` does, and InputError for a cache that cannot be written when something must be.
        """
        stages = self._checked(until)
        keymaker = self._keymaker(stages)
        keymaker.remember()
        self._cache.sweep()
        began = time.monotonic()
        made: dict[str, Artifact] = {}
        ran = 0
        try:
            self._emit(RunStarted({stage.name: stage.does for stage in stages}))
            for stage in stages:
                inputs = _inputs(stage, made)
                made[stage.name], worked = self._obtain(stage, keymaker.key(stage, inputs), inputs)
                ran += worked
        finally:
            seconds = time.monotonic() - began
            self._emit(RunFinished(len(made) == len(stages), ran, len(made) - ran, seconds))
        return made

    def _keymaker(self, stages: list[Stage]) -> Keymaker:
        return Keymaker(stages, self._seed, self._cache.root / "scans.json")

    def _checked(self, until: str | None) -> list[Stage]:
        self._graph.check()
        return self._graph.until(until).order()

    def _obtain(self, stage: Stage, key: Key, inputs: Mapping[str, Artifact]) -> tuple[Artifact, bool]:
        """The stage's artifact, and whether it took work."""
        found = self._cache.get(key, stage.produces)
        if isinstance(found, Artifact):
            self._emit(StageCached(stage.name))
            return found, False
        waits = Logged(stage.name, Level.INFO, "waiting for another run that is making the same")
        with self._cache.lock(key, lambda: self._emit(waits)) as lease:
            # Look again: another run may have made or mended it before we got the lock.
            found = self._cache.get(key, stage.produces)
            if isinstance(found, Artifact):
                self._emit(StageCached(stage.name))
                return found, False
            if isinstance(found, Corrupt):
                self._emit(CacheCorrupt(stage.name, str(found.path), found.reason))
                self._cache.evict(key)
            try:
                return self._make(stage, key, inputs, lease.mark if lease else ""), True
            except Exception:
                if lease is None or not lease.lost():
                    raise
        self._emit(Logged(stage.name, Level.INFO, "another machine took this over while this one was silent"))
        return self._obtain(stage, key, inputs)

    def _make(self, stage: Stage, key: Key, inputs: Mapping[str, Artifact], mark: str) -> Artifact:
        folder, work = self._cache.begin(key, mark)
        self._emit(StageStarted(stage.name, resumed=any(work.iterdir())))
        began = time.monotonic()
        try:
            with full_disk_named(self._cache.root), beating(stage.name, self._emit) as emit:
                stage.run(StageContext(folder, work, stage.own_options(), self._seed, stage.name, emit), **inputs)
            artifact = self._cache.put(key, stage.produces, mark)
        except BaseException as error:
            with suppress(OSError):  # the error at hand matters more; the next run sweeps
                self._cache.abandon(key, mark)
            self._emit(StageFailed(stage.name, describe(error)))
            raise
        self._emit(StageFinished(stage.name, time.monotonic() - began))
        return artifact

    def _emit(self, event: Event) -> None:
        for sink in self._sinks:
            sink(event)


def _inputs(stage: Stage, made: Mapping[str, Artifact]) -> dict[str, Artifact]:
    return {parameter: made[maker] for parameter, maker in stage.inputs.items()}
