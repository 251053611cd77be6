"""Keep the layers whose quantization costs most in higher precision, until the outputs are close enough.

The error of a file is that of its outputs on real inputs against the fp32 file's: root of the summed squares of the
differences over that of the outputs, of the worst output. If all layers quantized are within the tolerance nothing more
is done. Else each layer is quantized alone, which ranks them (on the first batch), and the worst 1, 2, 4, ... up to a
bound stay in fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from export import graph
from export.precision.result import Precision
from runtime import ort
from targets.errors import GateFailed

if TYPE_CHECKING:
    import numpy as np

#: Writes the file with all layers quantized but those named.
Quantize = Callable[[Path, Collection[str]], Precision]
Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Bounded:
    """What the search ended with. `costs`: layer -> error when it alone is quantized, worst first; {} if not asked."""

    precision: Precision
    error: float
    tolerance: float
    costs: dict[str, float]

    def __bool__(self) -> bool:
        return self.error <= self.tolerance

    def describe(self) -> str:
        """One line for people."""
        kept = f", {len(self.precision.kept)} layers kept in fp32" if self.costs else ""
        judged = "" if self else f", more than the {self.tolerance:g} asked for"
        return f"error of the outputs {self.error:.3g} of their size{judged}{kept}"


def quantize_within(
    source: Path,
    path: Path,
    quantize: Quantize,
    batches: Sequence[Mapping[str, np.ndarray]],
    tolerance: float,
    most: int,
    tell: Tell = lambda done, total: None,
) -> Bounded:
    """Write the quantized file to `path`, with at most `most` layers left in fp32 to reach the tolerance.

    The last file tried stays where none reaches it: whether that is good enough is the gate's to say. Raises GateFailed
    if an output is not finite.
    """
    wanted = _outputs(source, batches)
    whole = quantize(path, ())
    result = Bounded(whole, _error(path, wanted, batches), tolerance, {})
    if result or not most:
        return result
    ranked = _rank(source, path, quantize, whole, wanted[:1], batches[:1], tell)
    costs = {name: cost for cost, name in sorted(((cost, name) for name, cost in ranked.items()), reverse=True)}
    worst = list(costs)[:-1]  # one layer at least is quantized
    count = 1
    while not result and worst:
        kept = worst[: min(count, most)]
        result = Bounded(quantize(path, kept), _error(path, wanted, batches), tolerance, costs)
        if len(kept) in (most, len(worst)):
            break
        count *= 2
    return result


def _rank(
    source: Path,
    path: Path,
    quantize: Quantize,
    whole: Precision,
    wanted: list[dict[str, np.ndarray]],
    batches: Sequence[Mapping[str, np.ndarray]],
    tell: Tell,
) -> dict[str, float]:
    """Each layer -> the error when it alone is quantized. Embedding tables are not layers."""
    kinds = {node.name: node.op_type for node in graph.load(source).graph.node}
    layers = [name for name in whole.changed if kinds.get(name) != "Gather"]
    costs = {}
    for index, name in enumerate(layers):
        quantize(path, [other for other in layers if other != name])
        costs[name] = _error(path, wanted, batches)
        tell(index + 1, len(layers))
    return costs


def _outputs(path: Path, batches: Sequence[Mapping[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    model = ort.load(path)
    return [model.run(batch) for batch in batches]


def _error(path: Path, wanted: list[dict[str, np.ndarray]], batches: Sequence[Mapping[str, np.ndarray]]) -> float:
    import numpy as np

    found = _outputs(path, batches)
    worst = 0.0
    for name in wanted[0]:
        apart = sum(
            float(np.square(got[name] - want[name], dtype=np.float64).sum())
            for got, want in zip(found, wanted, strict=True)
        )
        size = sum(float(np.square(want[name], dtype=np.float64).sum()) for want in wanted)
        if not np.isfinite(apart):
            raise GateFailed(f"output {name!r} of {path.name} is not finite after quantization; do not ship it")
        worst = max(worst, (apart / size) ** 0.5 if size else float(apart > 0))
    return worst
