"""The graph of stages: checked as a whole before the first stage runs."""

from __future__ import annotations

import graphlib
import heapq
import inspect
import re
from collections.abc import Iterable

from compress.pipeline.digest import digest_of
from compress.pipeline.errors import GraphError
from compress.pipeline.stage import Stage

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,99}")


class Graph:
    """Stages, linked by the names in their `inputs`."""

    def __init__(self, stages: Iterable[Stage]) -> None:
        self.stages = tuple(stages)

    def check(self) -> None:
        """Raise GraphError, naming the stage, unless every stage can run on what the others make."""
        makers: dict[str, Stage] = {}
        for stage in self.stages:
            if stage.name in makers:
                raise GraphError(f"stage {stage.name!r} is there twice; names must be unique")
            makers[stage.name] = stage
        for stage in self.stages:
            _check_alone(stage)
            for parameter, maker in stage.inputs.items():
                if maker not in makers:
                    raise GraphError(
                        f"stage {stage.name!r}: its input {parameter!r} comes from {maker!r}, which is not a stage"
                    )
                _check_link(stage, parameter, makers[maker])
        self._sorter()

    def until(self, name: str | None) -> Graph:
        """The part that makes the artifact of one stage; of None, all that no one has to ask for. Raises GraphError."""
        by_name = {stage.name: stage for stage in self.stages}
        if name is not None and name not in by_name:
            raise GraphError(f"there is no stage {name!r} to run until; there are {', '.join(by_name)}")
        waiting = [stage.name for stage in self.stages if not stage.on_demand] if name is None else [name]
        needed: set[str] = set()
        while waiting:
            one = waiting.pop()
            if one not in needed:
                needed.add(one)
                waiting += by_name[one].inputs.values()
        return Graph(stage for stage in self.stages if stage.name in needed)

    def order(self) -> list[Stage]:
        """The stages, each after those it depends on; otherwise in the order given. Raises GraphError on a cycle."""
        position = {stage.name: index for index, stage in enumerate(self.stages)}
        sorter = self._sorter()
        ready: list[int] = []
        ordered: list[Stage] = []
        while sorter.is_active():
            for name in sorter.get_ready():
                heapq.heappush(ready, position[name])
            stage = self.stages[heapq.heappop(ready)]
            ordered.append(stage)
            sorter.done(stage.name)
        return ordered

    def _sorter(self) -> graphlib.TopologicalSorter[str]:
        sorter = graphlib.TopologicalSorter({stage.name: stage.inputs.values() for stage in self.stages})
        try:
            sorter.prepare()
        except graphlib.CycleError as error:
            names = error.args[1]
            raise GraphError(f"stage {names[0]!r} depends on itself: {' -> '.join(names)}") from None
        return sorter


def _check_alone(stage: Stage) -> None:
    """What can be wrong with a stage whatever the others are."""
    if not _NAME.fullmatch(stage.name):
        raise GraphError(f"stage {stage.name!r}: a name is a letter, then up to 99 letters, digits, '.', '_' or '-'")
    try:
        digest_of([stage.written_options, stage.sources])
    except (TypeError, ValueError) as error:
        raise GraphError(f"stage {stage.name!r}: its options must be JSON-able: {error}") from error
    if stage.own_options() != stage.options:
        raise GraphError(f"stage {stage.name!r}: its options are not what they are written as; give each field a place")
    wanted = stage.wants_options()
    if wanted is not None and not isinstance(stage.options, wanted):
        raise GraphError(
            f"stage {stage.name!r}: run wants {wanted.__name__} as its options, not {type(stage.options).__name__}"
        )
    try:
        inspect.signature(stage.run).bind(None, **stage.inputs)
    except TypeError as error:
        raise GraphError(f"stage {stage.name!r}: run cannot be called with its inputs: {error}") from error


def _check_link(stage: Stage, parameter: str, maker: Stage) -> None:
    wanted = stage.consumes(parameter)
    if wanted is None:
        raise GraphError(f"stage {stage.name!r}: run does not say of what type {parameter!r} is; annotate it")
    if not issubclass(maker.produces, wanted):
        raise GraphError(
            f"stage {stage.name!r}: its input {parameter!r} must be a {wanted.__name__}, "
            f"but {maker.name!r} makes a {maker.produces.__name__}"
        )
