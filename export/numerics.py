"""torch against ONNX Runtime on the CPU: the same inputs, at several sizes, must give the same numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runtime import ort
from targets.errors import GateFailed, InputError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

#: Allowed error of an fp32 file, as a part of the output's largest magnitude.
TOLERANCE = 1e-4
#: Magnitudes below this are taken as this: an output that is all zeros has no scale of its own.
_LEAST_SCALE = 1e-2


@dataclass(frozen=True)
class OutputError:
    """Largest error of one output over all cases. `max_rel` is against the output's own largest magnitude."""

    name: str
    max_abs: float
    max_rel: float


@dataclass(frozen=True)
class Numerics:
    """What the comparison found; true if it passed. `sizes` has the first input's shape in each case."""

    errors: tuple[OutputError, ...]
    sizes: tuple[tuple[int, ...], ...]
    tolerance: float

    def __bool__(self) -> bool:
        return bool(self.sizes) and all(error.max_rel <= self.tolerance for error in self.errors)

    def require(self, name: str) -> Numerics:
        """Itself, or GateFailed if it did not pass."""
        if self:
            return self
        if not self.sizes:
            raise GateFailed(f"{name} was compared on no case at all; give at least one")
        worst = max(self.errors, key=lambda error: error.max_rel)
        raise GateFailed(
            f"{name} differs from its reference in {worst.name!r} by {worst.max_abs:.2g} "
            f"({worst.max_rel:.2g} of the largest value, {self.tolerance:.2g} allowed); do not ship it"
        )


def check_against(
    module: nn.Module, path: Path, cases: Iterable[Mapping[str, Tensor]], tolerance: float = TOLERANCE
) -> Numerics:
    """Run `module` (a dict of tensors -> a tensor or tuple) and the ONNX file on each case and compare.

    Cases should differ in batch (and length): a dimension that froze in the export fails here. Raises GateFailed if
    an output differs in shape or by more than `tolerance`, or is not finite, or if there is no case.
    """
    import torch

    model = ort.load(path, threads=1)
    names = [tensor.name for tensor in model.outputs]

    def pairs() -> Iterator[tuple[tuple[int, ...], dict[str, np.ndarray], dict[str, np.ndarray]]]:
        for case in cases:
            with torch.no_grad():
                given = module(dict(case))
            given = given if isinstance(given, tuple | list) else (given,)
            wanted = {name: value.numpy() for name, value in zip(names, given, strict=True)}
            inputs = {name: value.numpy() for name, value in case.items()}
            yield _size(inputs), wanted, _run(model, inputs, path.name)

    training = module.training
    module.eval()
    try:
        return compare(pairs(), names, path.name, tolerance).require(path.name)
    finally:
        module.train(training)


def check_files(
    reference: Path, path: Path, cases: Iterable[Mapping[str, np.ndarray]], tolerance: float = TOLERANCE
) -> Numerics:
    """The same for two ONNX files with the same inputs and outputs."""
    first, second = ort.load(reference, threads=1), ort.load(path, threads=1)
    names = [tensor.name for tensor in first.outputs]
    pairs = ((_size(case), first.run(case), _run(second, case, path.name)) for case in cases)
    return compare(pairs, names, path.name, tolerance).require(path.name)


def compare(
    pairs: Iterable[tuple[tuple[int, ...], Mapping[str, np.ndarray], Mapping[str, np.ndarray]]],
    names: Sequence[str],
    where: str,
    tolerance: float,
) -> Numerics:
    """Largest errors over (size, wanted, found). Raises GateFailed for another shape or a value that is not finite."""
    import numpy as np

    worst = dict.fromkeys(names, (0.0, 0.0))
    sizes = []
    for size, wanted, found in pairs:
        sizes.append(size)
        for name in names:
            want, have = np.asarray(wanted[name], np.float64), np.asarray(found[name], np.float64)
            if want.shape != have.shape:
                raise GateFailed(
                    f"{where}: output {name!r} has shape {list(have.shape)} for an input of {list(size)}, "
                    f"not {list(want.shape)}; a dimension froze in the export"
                )
            if not (np.isfinite(want).all() and np.isfinite(have).all()):
                raise GateFailed(f"{where}: output {name!r} is not finite for an input of {list(size)}")
            error = float(np.abs(want - have).max(initial=0.0))
            scale = max(_LEAST_SCALE, float(np.abs(want).max(initial=0.0)))
            worst[name] = max(worst[name][0], error), max(worst[name][1], error / scale)
    return Numerics(tuple(OutputError(name, *worst[name]) for name in names), tuple(sizes), tolerance)


def resized(
    example: Mapping[str, Tensor], dynamic: Mapping[str, Mapping[int, str]], sizes: Mapping[str, int]
) -> dict[str, Tensor]:
    """The example with its dynamic dimensions repeated or cut to `sizes`, e.g. {"batch": 7}."""
    import torch

    case = {}
    for name, tensor in example.items():
        for axis, label in dynamic.get(name, {}).items():
            if label in sizes:
                index = torch.arange(sizes[label]) % tensor.shape[axis]
                tensor = tensor.index_select(axis, index)
        case[name] = tensor
    return case


def _run(model: ort.OrtModel, inputs: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """A file that was asked to take this size and refuses it has failed; the inputs are not to blame."""
    try:
        return model.run(inputs)
    except InputError as error:
        raise GateFailed(f"{where} does not run on an input of {list(_size(inputs))}: {error}") from error


def _size(inputs: Mapping[str, np.ndarray]) -> tuple[int, ...]:
    return tuple(next(iter(inputs.values())).shape)
