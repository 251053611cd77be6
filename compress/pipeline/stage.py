"""A stage of the graph, and what it is handed when it runs."""

from __future__ import annotations

import copy
import functools
import inspect
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

from compress.pipeline.artifact import Artifact
from compress.pipeline.events import Event, Level, Logged, Sink, StageProgress


class Record(Protocol):
    """Typed options, such as a frozen pydantic model: what they are written as is what they are read from."""

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """JSON-able values by name."""
        ...

    @classmethod
    def model_validate(cls, value: Any) -> Self:
        """The record that was written so."""
        ...


@dataclass(frozen=True)
class Stage:
    """One step: reads artifacts, writes files that become an artifact of type `produces`.

    Whatever changes the result must be in `options`, `sources` or `libraries`, or arrive as an input: these, with the
    seed and the code that `run` can reach (see `reach.py`), are the key under which the result is kept.
    """

    name: str
    """Unique in the graph: letters, digits, `.`, `_` and `-`, such as "rewrite-2-affine-mlp"."""
    does: str
    """One line: what the stage does."""
    why: str
    """One line: why it is there."""
    inputs: Mapping[str, str]
    """Parameter of `run` -> name of the stage that makes it."""
    produces: type[Artifact]
    run: Callable[..., None]
    """`run(context, **artifacts)` writes files into `context.folder`. Its annotations say of what type each is."""
    options: Mapping[str, Any] | Record = field(default_factory=dict)
    """What `run` reads from `context.options`: a typed record, or JSON-able values by name."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """What is read from outside the graph: name -> hex digest of its content (see `tree.digest_tree`)."""
    libraries: tuple[str, ...] = ()
    """Distributions whose versions the result depends on."""
    on_demand: bool = False
    """It runs only where a run is asked to go until it."""

    @property
    def kind(self) -> str:
        """The name without position numbers ("rewrite-affine-mlp"), so that a moved stage keeps its cache entry."""
        return re.sub(r"-\d+(?=-|$)", "", self.name)

    @property
    def written_options(self) -> dict[str, Any]:
        """The options as they are in the key."""
        return dict(self.options) if isinstance(self.options, Mapping) else self.options.model_dump(mode="json")

    def own_options(self) -> Any:
        """The options for one run: read from what is in the key, so that nothing else can have an influence."""
        if isinstance(self.options, Mapping):
            return copy.deepcopy(dict(self.options))
        return type(self.options).model_validate(self.written_options)

    @property
    def function(self) -> Any:
        """The function (or class of the callable object) behind `run`."""
        run: Any = self.run
        while isinstance(run, functools.partial):
            run = run.func
        return run if hasattr(run, "__qualname__") else type(run)

    def consumes(self, parameter: str) -> type[Artifact] | None:
        """The type that `run` wants an input to have, None if it does not say."""
        call, hints = self._call, typing.get_type_hints(self._call)
        others = [one.name for one in inspect.signature(call).parameters.values() if one.kind is one.VAR_KEYWORD]
        hint = next((hints[name] for name in (parameter, *others) if name in hints), None)
        kinds = [one for one in (hint, *typing.get_args(hint)) if isinstance(one, type) and issubclass(one, Artifact)]
        return kinds[0] if kinds else None

    def wants_options(self) -> type | None:
        """The record that `run` wants as its options, None if it does not say."""
        hints = (hint for hint in typing.get_type_hints(self._call).values() if typing.get_origin(hint) is StageContext)
        wanted = typing.get_args(next(hints, None))
        return wanted[0] if wanted and isinstance(wanted[0], type) and wanted[0] is not Any else None

    @property
    def _call(self) -> Any:
        return self.function.__call__ if isinstance(self.function, type) else self.function


def _ignore(event: Event) -> None:
    pass


OptionsT = TypeVar("OptionsT", covariant=True)


@dataclass(frozen=True)
class StageContext(Generic[OptionsT]):
    """What a running stage is handed besides its artifacts; `StageContext[Options]` says of what type `options` are."""

    folder: Path
    """Empty at the start; what is written here becomes the artifact."""
    work: Path
    """For checkpoints: survives a failure or a kill, is found again under the same key, goes when the stage is done."""
    options: OptionsT
    seed: int = 0
    stage: str = ""
    emit: Sink = _ignore

    def progress(self, done: float, total: float, note: str = "", **numbers: float) -> None:
        """Say how far the stage is, in any unit, with a short note and numbers worth watching such as the loss."""
        values = {name: float(number) for name, number in numbers.items()}
        self.emit(StageProgress(self.stage, float(done), float(total), note, values))

    def log(self, message: str) -> None:
        """Tell the user something worth knowing."""
        self.emit(Logged(self.stage, Level.INFO, message))

    def warn(self, message: str) -> None:
        """Tell the user something worth acting on."""
        self.emit(Logged(self.stage, Level.WARNING, message))
