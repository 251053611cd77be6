"""A backend that gives no answer any more ends the process, so that what supervises it starts it again.

Nothing else helps: a call into a driver that hangs cannot be interrupted, and a program that waits for it looks alive.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runtime.field.around import Around
from targets.errors import EnvironmentLacks

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Guarded(Around):
    """The backend `of`, of which no call may take longer than `patience` seconds."""

    patience: float
    _began: dict[int, float] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        threading.Thread(target=self._guard, daemon=True).start()

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All outputs by name."""
        caller = threading.get_ident()
        self._began[caller] = time.monotonic()
        try:
            return self.of.run(inputs)
        finally:
            del self._began[caller]

    def _guard(self) -> None:
        """Look now and then, and end the process with exit code 3 once a call takes too long."""
        while True:
            time.sleep(self.patience / 10)
            oldest = min(self._began.copy().values(), default=time.monotonic())
            if time.monotonic() - oldest > self.patience:
                print(f"error: {self.provider} gave no answer for {self.patience:g} s; start again", file=sys.stderr)
                sys.stdout.flush()
                os._exit(EnvironmentLacks.exit_code)
