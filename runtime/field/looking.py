"""A model whose inputs and outputs are looked at on their way, for drift."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.backends import Loaded
from runtime.field.around import Around
from runtime.field.drift import Monitor, Summary, looked_at, numbers_of

if TYPE_CHECKING:
    import numpy as np

    from runtime.bundles.manifest import Tensor


@dataclass(frozen=True)
class Looking(Around):
    """The backend `of`, with a monitor of its inputs and of one of its outputs, if any. `file`: where the summary is,
    or goes once it is learned."""

    output: str | None
    monitor: Monitor
    file: Path

    @classmethod
    def at(cls, of: Loaded, outputs: Sequence[Tensor], file: Path) -> Looking:
        """With the summary in the file, if it is there. Raises InputError for another file."""
        return cls(of, looked_at(outputs), Monitor(Summary.load(file) if file.exists() else None), file)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All outputs by name. At the end of a window with drift a line on standard error tells of it."""
        results = self.of.run(inputs)
        known = self.monitor.summary
        unknown = None if known is None else known.unknown
        output = None if self.output is None else results[self.output]
        drifted = self.monitor.see(numbers_of(inputs, output, unknown))
        if known is None and self.monitor.summary is not None:
            self.monitor.summary.save(self.file)
            print(f"note: what inputs look like was learned from {self.monitor.learned}: {self.file}", file=sys.stderr)
        if drifted:
            told = ", ".join(f"{name} (p {p:.1g})" for name, p in sorted(drifted.items(), key=lambda one: one[1])[:4])
            more = f" and {len(drifted) - 4} more" if len(drifted) > 4 else ""
            print(f"warning: the last {self.monitor.window} inputs look otherwise: {told}{more}", file=sys.stderr)
        return results

    def numbers(self) -> dict[str, float]:
        """For metrics."""
        return {
            "drift_windows": self.monitor.windows,
            "drift_alarms": self.monitor.alarms,
            "drift_now": float(bool(self.monitor.last)),
        }
