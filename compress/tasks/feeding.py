"""What graphs are fed with: the inputs that they declare, made of a task's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from runtime import states
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from runtime.bundles.manifest import Tensor


def fitted(name: str, inputs: Mapping[str, np.ndarray], declared: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """What a graph declares, in the types that it declares. Places of tokens that are not given are counted, kinds of
    tokens are all the first, and states start empty in the graph's own shapes, as on the device.

    Raises InputError for an input that the samples do not give. `name`: of the graph, for messages.
    """
    whole = dict(inputs)
    if states.MASK in inputs:
        whole.setdefault(states.PLACES, states.positions(inputs[states.MASK]))
    if "input_ids" in inputs:
        whole.setdefault("token_type_ids", 0 * inputs["input_ids"])
    whole |= states.fresh(states.states_of(declared), {states.BATCH: len(next(iter(inputs.values())))})
    lacking = next((tensor for tensor in declared if tensor.name not in whole), None)
    if lacking is not None:
        raise InputError(
            f"{name} has an input {lacking.name} of shape {list(lacking.shape)}, which the samples do not give; "
            "export it again"
        )
    return {tensor.name: whole[tensor.name].astype(tensor.dtype, copy=False) for tensor in declared}
