"""How far healing is, as the benchmarks show and keep it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


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
