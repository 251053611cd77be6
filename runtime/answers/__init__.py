"""What a bundle answers to what a user gives, one file per task: images or texts in, labels or vectors out."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from targets.errors import InputError

if TYPE_CHECKING:
    from runtime.bundle import Bundle
    from runtime.session import Session
    from runtime.watch import Result

_KNOWN = ("image-classification", "text-classification", "embedding")


class Answerer(Protocol):
    """Asks one bundle. What a user gives are strings: paths of images, texts, or token ids."""

    suffixes: tuple[str, ...]
    """Endings of files that can be waited for in a folder; () where inputs are no files."""

    def expand(self, given: Sequence[str]) -> list[str]:
        """One string per input (a folder becomes the files in it). Raises InputError."""
        ...

    def answer(self, session: Session, inputs: Sequence[str], top: int) -> list[Result | InputError]:
        """The result of each input, or why that one cannot be used. The others are run as one batch."""
        ...

    def line(self, result: Result) -> str:
        """A result in one line of text."""
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
    module = importlib.import_module(f"{__name__}.{task.replace('-', '_')}")
    answerer: Answerer = module.open_answerer(bundle, ids)
    return answerer
