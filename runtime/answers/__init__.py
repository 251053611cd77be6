"""What a bundle answers to what a user gives, one file per task: images, recordings or texts in, labels or vectors
out."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from runtime.texts.generate import Sampling
from targets.errors import EdgepressError, InputError

if TYPE_CHECKING:
    from runtime.bundles.bundle import Bundle
    from runtime.session import Session
    from runtime.watch import Result

#: What tasks share: those on texts, and those on files.
_SHARED = {"texts", "files"}
#: Tasks of this folder, by the names of its files.
_KNOWN = sorted(one.name.replace("_", "-") for one in pkgutil.iter_modules(__path__) if one.name not in _SHARED)


@dataclass(frozen=True)
class Wanted:
    """What a user asks for: the `top` most probable classes; at most `tokens` tokens, drawn as `sampling` says, or the
    best of `beams` beams (None: as the model's makers search). `prompt`: the name of what goes before every text (None:
    what the model's makers put there)."""

    top: int = 1
    tokens: int = 128
    beams: int | None = None
    prompt: str | None = None
    sampling: Sampling = field(default_factory=Sampling)

    def at(self, place: int) -> Wanted:
        """What is asked of the input at this place: a draw of its own, so that equal prompts differ."""
        return replace(self, sampling=replace(self.sampling, seed=self.sampling.seed + place))


class Answerer(Protocol):
    """Asks one bundle. What a user gives are strings: paths of images, texts, or token ids."""

    options: ClassVar[tuple[str, ...]]
    """Options of `runtime.run` that change the answers, such as `top`; the others are refused."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Endings of files that can be waited for in a folder; () where inputs are not files."""
        ...

    def expand(self, given: Sequence[str]) -> list[str]:
        """One string per input (a folder becomes the files in it). Raises InputError."""
        ...

    def answer(self, session: Session, inputs: Sequence[str], wanted: Wanted) -> Sequence[Result | EdgepressError]:
        """The result of each input, or why that one cannot be used. The others are run as one batch."""
        ...

    def line(self, result: Result) -> str:
        """A result in one line of text."""
        ...


@runtime_checkable
class Streamer(Protocol):
    """Answers bit by bit. `alone`: never to several inputs at once."""

    alone: ClassVar[bool]

    def flows(self, wanted: Wanted) -> bool:
        """Whether the answer to one input can be given as it comes."""
        ...

    def pieces(self, session: Session, prompt: str, wanted: Wanted) -> Iterator[str]:
        """The answer to one input as it comes. Raises InputError."""
        ...


def answerer_of(bundle: Bundle, ids: bool = False) -> Answerer:
    """What asks this bundle; `ids`: texts are given as token ids, so no tokenizer is needed.

    Raises InputError for a task or a manifest that this command cannot serve, EnvironmentLacks without the package
    that it needs.
    """
    task = bundle.manifest.task
    if task not in _KNOWN:
        raise InputError(
            f"{bundle.source} is a bundle for {task}; this command serves {', '.join(_KNOWN)}: "
            "call runtime.session.open_bundle from Python"
        )
    answerer: Answerer = _module(task).open_answerer(bundle, ids)
    return answerer


def answering(bundle: Bundle) -> Bundle:
    """The bundle of the graph whose session answers: the one that the file of its task calls `ANSWERS`, else the only
    one. Raises InputError if there is no such graph."""
    task = bundle.manifest.task
    return bundle.one(getattr(_module(task), "ANSWERS", None) if task in _KNOWN else None)


def _module(task: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{task.replace('-', '_')}")
