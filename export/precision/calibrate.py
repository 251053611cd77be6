"""Ranges of activations from real inputs, for static int8: min-max, entropy or percentile.

One pass: for each value a histogram of magnitudes with bins of fixed number; when a larger magnitude comes, the range
doubles and neighbouring bins merge, so nothing is lost and no batch is kept.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from export import graph
from runtime import ort
from targets.errors import GateFailed, InputError

if TYPE_CHECKING:
    import numpy as np

Method = Literal["minmax", "entropy", "percentile"]
#: Part of the magnitudes, in percent, that `percentile` keeps.
PERCENTILE = 99.99
_BINS = 2048
_LEVELS = 128
_NOTHING = 1e-30  # magnitudes too small for a histogram to separate
_STRIDE = 16  # bins between the candidates of `entropy`


@dataclass
class Magnitudes:
    """Histogram of |x| over [0, top), and the largest |x| seen."""

    top: float = 0.0
    largest: float = 0.0
    counts: np.ndarray | None = field(default=None, repr=False)

    def add(self, values: np.ndarray) -> None:
        """Count values. Raises GateFailed if one is not finite."""
        import numpy as np

        magnitudes = np.abs(values, dtype=np.float32).ravel()
        largest = float(magnitudes.max(initial=0.0))
        if not np.isfinite(largest):
            raise GateFailed("an activation is not finite during calibration; the model cannot be quantized")
        self.largest = max(self.largest, largest)
        if largest < _NOTHING and self.counts is None:
            return
        if self.counts is None:
            self.top, self.counts = largest, np.zeros(_BINS, np.int64)
        while self.largest > self.top:
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.top, self.counts = 2 * self.top, np.concatenate([merged, np.zeros_like(merged)])
        self.counts += np.histogram(magnitudes, bins=_BINS, range=(0.0, self.top))[0]

    def threshold(self, method: Method) -> float:
        """The magnitude that becomes 127. Zero if only zeros were seen."""
        if self.counts is None or method == "minmax":
            return self.largest
        if method == "percentile":
            return min(self.largest, self._percentile())
        return min(self.largest, self._entropy())

    def _percentile(self) -> float:
        import numpy as np

        assert self.counts is not None
        shares = np.cumsum(self.counts) / self.counts.sum()
        return self.top * (1 + int(np.searchsorted(shares, PERCENTILE / 100))) / _BINS

    def _entropy(self) -> float:
        """The cut-off whose 128-level form diverges least (Kullback-Leibler) from the distribution
        (Migacz, 8-bit inference with TensorRT, GTC 2017)."""
        import numpy as np

        assert self.counts is not None
        cuts = range(_LEVELS, _BINS + 1, _STRIDE)
        costs = [_divergence(self.counts, cut) for cut in cuts]
        return self.top * cuts[int(np.argmin(costs))] / _BINS


def _divergence(counts: np.ndarray, cut: int) -> float:
    """KL(reference || quantized) in nats for magnitudes clipped at bin `cut`."""
    import numpy as np

    reference = counts[:cut].astype(np.float64)
    inside = reference.copy()
    reference[-1] += counts[cut:].sum()
    edges = np.linspace(0, cut, _LEVELS + 1).astype(np.int64)[:-1]
    present = inside > 0
    sums = np.add.reduceat(inside, edges)
    filled = np.add.reduceat(present.astype(np.float64), edges)
    widths = np.diff(np.append(edges, cut))
    level = np.repeat(np.divide(sums, filled, out=np.zeros_like(sums), where=filled > 0), widths) * present
    if not level.any():
        return float("inf")
    p, q = reference / reference.sum(), level / level.sum()
    both = (p > 0) & (q > 0)
    lost = p[(p > 0) & (q == 0)].sum()  # mass that the quantized form has no level for
    return float((p[both] * np.log(p[both] / q[both])).sum() + lost * np.log(1 / 1e-9))


def thresholds(
    model: Any, names: Sequence[str], batches: Iterable[Mapping[str, np.ndarray]], method: Method
) -> dict[str, float]:
    """The magnitude that becomes 127, for each named value of the graph, over all batches.

    Raises InputError for an unknown method or if there is no batch.
    """
    if method not in get_args(Method):
        raise InputError(f"unknown calibration method {method!r}; allowed: {', '.join(get_args(Method))}")
    seen = {name: Magnitudes() for name in names}
    for values in observe(model, names, batches):
        for name in names:
            seen[name].add(values[name])
    return {name: magnitudes.threshold(method) for name, magnitudes in seen.items()}


def channel_maxima(
    model: Any, names: Sequence[str], batches: Iterable[Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The largest magnitude of each channel (the last axis) of each named value. Raises InputError without a batch."""
    import numpy as np

    found: dict[str, np.ndarray] = {}
    for values in observe(model, names, batches):
        for name in names:
            largest = np.abs(values[name]).reshape(-1, values[name].shape[-1]).max(axis=0)
            found[name] = np.maximum(found.get(name, 0.0), largest)
    return found


def observe(
    model: Any, names: Sequence[str], batches: Iterable[Mapping[str, np.ndarray]]
) -> Iterator[dict[str, np.ndarray]]:
    """The named values of the graph for each batch. Raises InputError if there is no batch."""
    from onnx import TensorProto, helper

    probe = graph.copied(model)
    given = {value.name for value in probe.graph.input}
    inner = [name for name in names if name not in given]
    del probe.graph.output[:]
    probe.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inner)
    graph.drop_unused(probe)
    count = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "probe.onnx")
        path.write_bytes(probe.SerializeToString())
        session = ort.load(path)
        for batch in batches:
            count += 1
            yield session.run(batch) | {name: batch[name] for name in names if name in given}
    if count == 0:
        raise InputError("int8 needs calibration data, and there is none; give at least one batch of inputs")
