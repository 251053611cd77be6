"""Ask a bundle, and let observers see what was asked and answered."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from runtime.answers import Answerer, Wanted
from runtime.session import Session
from runtime.watch import Result
from targets.errors import EdgepressError


class Observer(Protocol):
    """Sees every answer, and may not change it."""

    def after(
        self, inputs: Sequence[Any], results: Sequence[Result | EdgepressError], ms: float, wanted: Wanted
    ) -> None:
        """`ms`: what each of these inputs took."""
        ...

    def finish(self) -> None:
        """No more comes. Raises GateFailed for what was found."""
        ...


@dataclass(frozen=True)
class Asking:
    """A session, what asks it, and who looks on."""

    session: Session
    answerer: Answerer
    observers: Sequence[Observer] = ()

    def answer(self, inputs: Sequence[Any], wanted: Wanted) -> Sequence[Result | EdgepressError]:
        """As `Answerer.answer`."""
        began = time.perf_counter()
        results = self.answerer.answer(self.session, inputs, wanted)
        ms = (time.perf_counter() - began) * 1e3 / max(1, len(inputs))
        for observer in self.observers:
            observer.after(inputs, results, ms, wanted)
        return results

    def finish(self) -> None:
        """Let every observer end; raises what the first of those raises that does."""
        faults = []
        for observer in self.observers:
            try:
                observer.finish()
            except EdgepressError as fault:
                faults.append(fault)
        if faults:
            raise faults[0]
