"""torch against ONNX Runtime on the CPU: the same inputs, at several sizes, must give the same numbers."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
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
#: The fp32 of a deep model may itself be that far from the truth: allowed then is this many times torch's own largest
#: error, and never more than `MOST`. Both are one draw of the same rounding noise: on caches of random numbers
#: SmolLM2-135M has up to 3.6e-5 in torch and 2.5e-4 in ONNX Runtime, and in another draw torch errs twice as much.
TIMES_OWN, MOST = 10.0, 1e-3
#: Magnitudes below this are taken as this: an output that is all zeros has no scale of its own.
_LEAST_SCALE = 1e-2


@dataclass(frozen=True)
class OutputError:
    """Largest error of one output over all cases, and what is `allowed` of `max_rel`, which is against the output's
    own largest magnitude."""

    name: str
    max_abs: float
    max_rel: float
    allowed: float

    def __bool__(self) -> bool:
        return self.max_rel <= self.allowed


@dataclass(frozen=True)
class Numerics:
    """What the comparison with `reference` found; true if it passed. `sizes`: the first input's shape in each case."""

    errors: tuple[OutputError, ...]
    sizes: tuple[tuple[int, ...], ...]
    reference: str = "its reference"

    def __bool__(self) -> bool:
        return bool(self.sizes) and all(self.errors)

    @property
    def worst(self) -> OutputError:
        """The output that is closest to what is allowed, or furthest beyond it."""
        return max(self.errors, key=lambda error: error.max_rel / max(error.allowed, _LEAST_SCALE * TOLERANCE))

    def describe(self) -> str:
        """What is off by how much, from what, and what was allowed."""
        worst = self.worst
        return (
            f"{worst.name!r} differs from {self.reference} by up to {worst.max_abs:.2g} "
            f"({worst.max_rel:.2g} of the largest value, {worst.allowed:.2g} allowed)"
        )

    def require(self, name: str) -> Numerics:
        """Itself, or GateFailed if it did not pass."""
        if self:
            return self
        if not self.sizes:
            raise GateFailed(f"{name} was compared on no case at all; give at least one")
        raise GateFailed(f"{name}: {self.describe()}; do not ship it")


def check_against(
    module: nn.Module, path: Path, cases: Sequence[Mapping[str, Tensor]], tolerance: float = TOLERANCE
) -> Numerics:
    """Run `module` (a dict of tensors -> a tensor or tuple) and the ONNX file on each case and compare.

    Cases should differ in batch (and length): a dimension that froze in the export fails here. Where the two fp32 forms
    differ by more than `tolerance`, both are held against the module in float64: the file may err a few times as much
    as torch's own fp32 does in the output where it errs most. Raises GateFailed if an output differs in shape or by
    more, or is not finite, or if there is no case.
    """
    model = ort.load(path, threads=1)
    names = [tensor.name for tensor in model.outputs]
    training = module.training
    module.eval()
    try:
        inputs = [{name: value.numpy() for name, value in case.items()} for case in cases]
        sizes = [_size(one) for one in inputs]
        wanted = [_answers(module, case, names) for case in cases]
        found = [_run(model, one, path.name) for one in inputs]
        plain = compare(zip(sizes, wanted, found, strict=True), names, path.name, tolerance, "torch")
        if plain or not sizes:
            return plain.require(path.name)
        exact = _in_float64(module, cases, names)
        own = compare(zip(sizes, exact, wanted, strict=True), names, "torch", tolerance)
        allowed = max(tolerance, min(TIMES_OWN * max(error.max_rel for error in own.errors), MOST))
        judged = compare(zip(sizes, exact, found, strict=True), names, path.name, allowed, "torch in float64")
        return judged.require(path.name)
    finally:
        module.train(training)


def _answers(module: nn.Module, case: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, np.ndarray]:
    import torch

    with torch.no_grad():
        given = module(dict(case))
    given = given if isinstance(given, tuple | list) else (given,)
    return {name: value.numpy() for name, value in zip(names, given, strict=True)}


def _in_float64(
    module: nn.Module, cases: Sequence[Mapping[str, Tensor]], names: Sequence[str]
) -> list[dict[str, np.ndarray]]:
    """What a copy of the module in float64 answers."""
    double = copy.deepcopy(module).double()
    return [
        _answers(
            double,
            {name: value.double() if value.is_floating_point() else value for name, value in case.items()},
            names,
        )
        for case in cases
    ]


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
    reference: str = "its reference",
) -> Numerics:
    """Largest errors over (size, wanted, found); `tolerance` of all outputs.

    Raises GateFailed for another shape or a value that is not finite.
    """
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
    errors = tuple(OutputError(name, *worst[name], tolerance) for name in names)
    return Numerics(errors, tuple(sizes), reference)


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
