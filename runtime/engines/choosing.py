"""Of several files that mean the same to TensorRT, the engine that is kept: the fastest of those that pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.bundles.manifest import ModelFile
from targets.errors import EdgepressError


@dataclass(frozen=True)
class Tried:
    """What became of one file: its engine and the median ms of a call, or why it is left out."""

    model: ModelFile
    engine: Path | None = None
    ms: float | None = None
    error: EdgepressError | None = None


def try_each(
    models: Iterable[ModelFile],
    provide: Callable[[ModelFile], Path],
    time: Callable[[ModelFile, Path], float],
) -> list[Tried]:
    """Build, check and time each. `provide`: the engine of a file, which gave the golden outputs; `time`: its ms."""
    tried = []
    for model in models:
        try:
            engine = provide(model)
            tried.append(Tried(model, engine, time(model, engine)))
        except EdgepressError as error:
            tried.append(Tried(model, error=error))
    return tried


def pick(tried: Sequence[Tried]) -> Tried:
    """The fastest of those that passed; of equals the first, which the bundle prefers. Raises the first one's error
    where none passed."""
    passed = [one for one in tried if one.ms is not None]
    if not passed:
        raise next(one.error for one in tried if one.error is not None)
    return min(passed, key=lambda one: one.ms or 0.0)


def told(tried: Sequence[Tried], kept: Tried) -> list[str]:
    """What is kept and why, and what is not: a line each."""
    others = [one for one in tried if one.ms is not None and one is not kept]
    why = f"the fastest of {len(others) + 1} that pass" if others else "the only one that passes"
    return [
        f"kept: {_name(kept)}, {kept.ms:.3g} ms a call: {why}",
        *(f"not kept: {_name(one)}, {one.ms:.3g} ms a call" for one in sorted(others, key=lambda one: one.ms or 0.0)),
        *(f"left out: {_name(one)}: {one.error}" for one in tried if one.error is not None),
    ]


def _name(one: Tried) -> str:
    return f"{one.model.path} ({one.model.precision})"
