"""Hold arrays against the tensors that a manifest declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from runtime.bundles.manifest import GROWING, State, Tensor
from runtime.states import fresh
from targets.errors import GateFailed, InputError
from targets.strict import nearest

if TYPE_CHECKING:
    import numpy as np


def check_inputs(inputs: Mapping[str, np.ndarray], tensors: Sequence[Tensor]) -> dict[str, int]:
    """Hold inputs against their declaration. Returns the sizes of the dynamic dimensions; raises InputError."""
    import numpy as np

    names = [tensor.name for tensor in tensors]
    for name in inputs:
        if name not in names:
            raise InputError(f"unknown input {name!r}; allowed: {', '.join(names)}{nearest(name, names)}")
    sizes: dict[str, int] = {}
    for tensor in tensors:
        if tensor.name not in inputs:
            raise InputError(f"input {tensor.name!r} is missing; allowed: {', '.join(names)}")
        array = inputs[tensor.name]
        if not isinstance(array, np.ndarray):
            raise InputError(f"input {tensor.name!r} is a {type(array).__name__}; allowed: a numpy array")
        if array.dtype != tensor.dtype:
            raise InputError(f"input {tensor.name!r} is {array.dtype}; allowed: {tensor.dtype}")
        _check_shape(tensor, array.shape, sizes)
    return sizes


def fresh_state(
    states: Sequence[State], inputs: Mapping[str, np.ndarray], tensors: Sequence[Tensor]
) -> dict[str, np.ndarray]:
    """Zeros for each `past` that `inputs` lacks, with dynamic dimensions as in the inputs given; caches are empty.
    Raises InputError."""
    import numpy as np

    sizes: dict[str, int] = {}
    for tensor in tensors:
        if isinstance(inputs.get(tensor.name), np.ndarray):
            _check_shape(tensor, inputs[tensor.name].shape, sizes)
    return fresh((state for state in states if state.past not in inputs), sizes)


def check_finite(states: Sequence[State], inputs: Mapping[str, np.ndarray]) -> None:
    """Raises InputError for a state among the inputs that holds NaN or infinity."""
    import numpy as np

    for state in states:
        if state.past in inputs and not np.isfinite(inputs[state.past]).all():
            raise InputError(f"state {state.past!r} holds NaN or infinity; start the sequence again")


def check_outputs(outputs: Mapping[str, np.ndarray], tensors: Sequence[Tensor], model: str) -> dict[str, np.ndarray]:
    """The declared outputs. Raises InputError if one is missing, GateFailed if one holds NaN or infinity."""
    import numpy as np

    checked = {}
    for tensor in tensors:
        if tensor.name not in outputs:
            raise InputError(
                f"{model} has no output {tensor.name!r} though the manifest lists it; make the bundle again"
            )
        array = outputs[tensor.name]
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise GateFailed(f"{model} gave NaN or infinity in output {tensor.name!r}; do not use its results")
        checked[tensor.name] = array
    return checked


def check_declared(declared: Sequence[Tensor], real: Sequence[Tensor], model: str) -> None:
    """Hold what the manifest declares against what the model file has: names and types. Raises InputError."""
    have = {tensor.name: tensor.dtype for tensor in real}
    for tensor in declared:
        if have.get(tensor.name) != tensor.dtype:
            found = have.get(tensor.name, "nothing of that name")
            raise InputError(
                f"the manifest says {tensor.name!r} is {tensor.dtype}, {model} has {found}; make the bundle again"
            )


def _check_shape(tensor: Tensor, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
    """Hold a shape against the declared one; sizes of dynamic dimensions are noted and must agree."""
    wanted = "[" + ", ".join(map(str, tensor.shape)) + "]"
    fits = len(shape) == len(tensor.shape) and all(
        size > 0 or want == GROWING for want, size in zip(tensor.shape, shape, strict=True)
    )
    if not fits or any(isinstance(want, int) and want != size for want, size in zip(tensor.shape, shape, strict=True)):
        raise InputError(f"input {tensor.name!r} has shape {list(shape)}; allowed: {wanted}")
    for want, size in zip(tensor.shape, shape, strict=True):
        if isinstance(want, str) and sizes.setdefault(want, size) != size:
            raise InputError(f"input {tensor.name!r} has {want} = {size}, another input has {want} = {sizes[want]}")
