"""Do the scales of static quantizers fit the values that they meet? One that is off costs precision in silence.

A static quantizer is a QuantizeLinear with one constant scale, outside of subgraphs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from export import graph
from export.precision.calibrate import observe

if TYPE_CHECKING:
    import numpy as np

#: A quantizer should use at least this part of its range, and clip at most this part of its values.
LEAST_USED, MOST_CLIPPED = 1 / 6, 0.05


@dataclass
class RangeUse:
    """What the quantizer of one `value` met: `low` <= 0 <= `high` is the range that its scale and zero point span."""

    value: str
    low: float
    high: float
    used: float = 0.0
    clipped: int = 0
    count: int = field(default=0, repr=False)

    def add(self, values: np.ndarray) -> None:
        """Count values."""
        import numpy as np

        above = float(values.max(initial=0.0)) / self.high if self.high > 0 else 0.0
        below = float(values.min(initial=0.0)) / self.low if self.low < 0 else 0.0
        self.used = max(self.used, above, below)
        self.clipped += int(np.count_nonzero((values > self.high) | (values < self.low)))
        self.count += values.size

    @property
    def fault(self) -> str | None:
        """Why the scale does not fit, or None. A value that was always zero says nothing."""
        if 0 < self.used < LEAST_USED:
            return f"{self.value} reaches {100 * self.used:.2g} % of the range that its scale spans"
        if self.count and self.clipped > MOST_CLIPPED * self.count:
            return f"{100 * self.clipped / self.count:.2g} % of the values of {self.value} lie outside of its range"
        return None


def range_use(path: Path, batches: Iterable[Mapping[str, np.ndarray]]) -> list[RangeUse]:
    """How every static quantizer of an ONNX file uses its range on these inputs; none, without asking for a batch,
    where the file has none. Raises InputError if the file cannot be read or there is no batch."""
    model = graph.load(path)
    found = _quantizers(model)
    for values in observe(model, sorted(found), batches) if found else []:
        for name, use in found.items():
            use.add(values[name])
    return list(found.values())


def _quantizers(model: object) -> dict[str, RangeUse]:
    import numpy as np

    constants = graph.weights(model)
    found = {}
    for node in model.graph.node:  # type: ignore[attr-defined]
        scale = constants.get(node.input[1]) if node.op_type == "QuantizeLinear" else None
        if scale is None or scale.size != 1 or node.input[0] in constants:
            continue
        zero = constants.get(node.input[2]) if len(node.input) > 2 else np.zeros((), np.uint8)
        if zero is None or zero.dtype.kind not in "iu":
            continue
        limits, step, middle = np.iinfo(zero.dtype), float(scale.reshape(())), int(zero.reshape(()))
        found[node.input[0]] = RangeUse(node.input[0], (limits.min - middle) * step, (limits.max - middle) * step)
    return found
