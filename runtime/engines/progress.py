"""One figure of progress out of TensorRT's nested build phases."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class BuildProgress:
    """Takes phase events from any thread and tells a growing fraction; cancels the build on an interrupt."""

    def __init__(self, tell: Callable[[float, str], None]) -> None:
        self._tell = tell
        self._phases: dict[str, _Phase] = {}
        self._lock = threading.Lock()
        self._highest = 0.0
        self.cancelled = False

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase of `steps` steps begins, inside `parent` if that is given."""
        with self._lock:
            self._phases[name] = _Phase(parent if parent in self._phases else None, max(1, steps))
            self._report(name)

    def step(self, name: str, index: int) -> bool:
        """Step `index` of a phase is done. False asks TensorRT to stop."""
        with self._lock:
            if name in self._phases:
                self._phases[name].done = index + 1
                self._report(name)
        return not self.cancelled

    def finish(self, name: str) -> None:
        """A phase is over."""
        with self._lock:
            phase = self._phases.pop(name, None)
            if phase is not None and phase.parent is None:
                self._highest = 1.0
                self._tell(1.0, name)

    def _report(self, name: str) -> None:
        """The outermost phase's fraction: its steps done, and of the step under way what the inner phases did of it."""
        fraction, at = 0.0, name
        while True:
            phase = self._phases[at]
            fraction = min(1.0, (phase.done + fraction) / phase.steps)
            if phase.parent is None or phase.parent not in self._phases:
                break
            at = phase.parent
        if fraction > self._highest:
            self._highest = fraction
            self._tell(fraction, name)


def terminal_teller() -> Callable[[float, str], None]:
    """Print progress on stderr: one line that is rewritten on a terminal, else a line per tenth."""
    began = time.monotonic()
    last = -1
    rewrite = sys.stderr.isatty()

    def tell(fraction: float, phase: str) -> None:
        nonlocal last
        percent = int(fraction * 100)
        mark = percent if rewrite else percent // 10
        if mark == last:
            return
        last = mark
        text = f"{percent:3d} %  {time.monotonic() - began:5.0f} s  {phase}"
        if rewrite:
            print(f"\r{text:<100.100}", end="\n" if fraction >= 1.0 else "", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)

    return tell
