"""What a change of precision did, for the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export import graph
from targets.errors import InputError
from targets.strict import nearest


@dataclass(frozen=True)
class Precision:
    """One file in one precision.

    `changed` names the nodes that compute in the new precision, `kept` those left in float32 on purpose or because the
    operator has no such form; `float_weights` the matrices (and larger) that are still float32, with their bytes.
    """

    mode: str
    path: Path
    bytes: int
    source_bytes: int
    changed: tuple[str, ...]
    kept: tuple[str, ...]
    float_weights: dict[str, int]
    operators: dict[str, int]

    @property
    def float_bytes(self) -> int:
        """Bytes of the weights that are still float32."""
        return sum(self.float_weights.values())


def describe(mode: str, source: Path, path: Path, changed: Sequence[str], kept: Sequence[str]) -> Precision:
    """The result for a written file."""
    model = graph.load(path)
    return Precision(
        mode=mode,
        path=path,
        bytes=path.stat().st_size,
        source_bytes=source.stat().st_size,
        changed=tuple(changed),
        kept=tuple(kept),
        float_weights=_float_weights(model),
        operators=dict(sorted(Counter(node.op_type for node in model.graph.node).items())),
    )


def check_names(given: Collection[str], known: Sequence[str]) -> None:
    """Raises InputError for a node that cannot be excluded because there is none of that name to quantize."""
    for name in given:
        if name not in known:
            raise InputError(f"cannot exclude {name!r}: no such layer to quantize{nearest(name, list(known))}")


def _float_weights(model: Any) -> dict[str, int]:
    """Vectors are biases, gains and scales: they stay float."""
    found = {name: array for name, array in graph.weights(model).items() if array.dtype == "float32"}
    return {name: array.nbytes for name, array in sorted(found.items()) if array.size > max(array.shape, default=1)}
