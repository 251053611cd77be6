"""Hold a model against the golden outputs that its bundle brings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtime.bundles.bundle import Bundle
from runtime.faults import read_arrays, told
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np

#: Of all golden arrays of a graph together, unpacked.
_MOST_BYTES = 1 << 30
Run = Callable[[Mapping[str, "np.ndarray"]], "dict[str, np.ndarray]"]


@dataclass(frozen=True)
class Golden:
    """Inputs, the outputs expected for them, and the absolute error allowed per output."""

    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    atol: dict[str, float]


@dataclass(frozen=True)
class GoldenResult:
    """One output's largest absolute error. True when it is within its tolerance."""

    name: str
    max_error: float
    atol: float

    def __bool__(self) -> bool:
        return self.max_error <= self.atol


def load_golden(bundle: Bundle, loops: int | None = None) -> Golden:
    """The bundle's golden.npz, for a model of `loops` loops where it offers several. Raises InputError if it is missing
    or incomplete."""
    golden = bundle.manifest.golden
    path = bundle.root / golden
    if golden not in bundle.manifest.files:
        raise InputError(f"{bundle.source} has no {golden}, so it cannot be checked; make the bundle again")
    kind = "" if loops == bundle.manifest.loops or loops is None else str(loops)
    parts: dict[str, dict[str, np.ndarray]] = {"input": {}, f"output{kind}": {}, f"atol{kind}": {}}
    with told(f"{path}: not a readable npz", "make the bundle again"):
        arrays = read_arrays(path, _MOST_BYTES)
    for key, array in arrays.items():
        part, _, name = key.partition("_")
        if part.rstrip("0123456789") not in ("input", "output", "atol"):
            raise InputError(f"{path}: unknown array {key!r}; allowed: input_*, output_*, atol_*")
        if part in parts:
            parts[part][name] = array
    outputs = parts[f"output{kind}"]
    atol = {name: float(value) for name, value in parts[f"atol{kind}"].items() if value.size == 1}
    if not outputs or set(atol) != set(outputs):
        raise InputError(f"{path}: outputs and tolerances do not match one to one; make the bundle again")
    return Golden(parts["input"], outputs, atol)


def check_golden(run: Run, golden: Golden, max_batch: int | None = None) -> list[GoldenResult]:
    """Run the golden inputs and compare, in batches of at most `max_batch` if that is given.

    An output that is missing, of another shape or not finite has an infinite error.
    """
    got = _run_in_batches(run, golden.inputs, max_batch)
    return [
        GoldenResult(name, _max_error(got.get(name), wanted), golden.atol[name])
        for name, wanted in golden.outputs.items()
    ]


def _max_error(got: np.ndarray | None, wanted: np.ndarray) -> float:
    import numpy as np

    if got is None or got.shape != wanted.shape:
        return float("inf")
    error = np.abs(got.astype(np.float64) - wanted.astype(np.float64))
    return float(error.max(initial=0.0)) if np.isfinite(error).all() else float("inf")


def _run_in_batches(run: Run, inputs: Mapping[str, np.ndarray], max_batch: int | None) -> dict[str, np.ndarray]:
    import numpy as np

    sizes = {len(array) for array in inputs.values() if array.ndim}
    if max_batch is None or len(sizes) != 1 or (size := sizes.pop()) <= max_batch:
        return run(inputs)
    pieces = [
        run({name: array[start : start + max_batch] for name, array in inputs.items()})
        for start in range(0, size, max_batch)
    ]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
