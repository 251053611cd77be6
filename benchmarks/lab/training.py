"""How far healing is, as the benchmarks show and keep it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks.lab import record

if TYPE_CHECKING:
    from compress.heal.heal import Healed
    from compress.heal.options import HealOptions
    from compress.model import Transformer


@dataclass
class Log:
    """Shows how far healing is and keeps the curve."""

    every: int
    start: float = field(default_factory=time.monotonic)
    curve: list[list[float]] = field(default_factory=list)

    def __call__(self, done: float, total: float, note: str = "", **numbers: float) -> None:
        if done % self.every and done != total:
            return
        seconds = round(time.monotonic() - self.start, 1)
        values = {name: round(value, 5) for name, value in numbers.items()}
        self.curve.append([done, seconds, *values.values()])
        print(f"[{seconds:6.1f}] {note} {done:.0f}/{total:.0f} {values}", flush=True)

    @property
    def seconds(self) -> float:
        """When the last step was shown."""
        return self.curve[-1][1] if self.curve else 0.0


def of_healing(
    name: str,
    original: Transformer,
    tables: Sequence[Mapping[str, Any]],
    notes: Sequence[str],
    options: HealOptions,
    result: Healed,
    log: Log,
) -> dict[str, Any]:
    """What is kept of every healing by the benchmark of this name: its rewrites and their notes, its options and how it
    went."""
    return {
        "command": record.command(name),
        **record.surroundings(),
        "rewrite": list(tables),
        "heal": options.model_dump(mode="json"),
        "notes": list(notes),
        "parameters": result.model.num_parameters(),
        "original_parameters": original.num_parameters(),
        "steps_run": result.steps,
        "seconds": log.seconds,
        "curve": log.curve,
    }
