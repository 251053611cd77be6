"""A causal model as a map from inputs and past state to output and present state: the form that is exported.

B batch, P tokens before, N tokens of the chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.model.mixer import PAST, State, StateSpec
from compress.model.transformer import Transformer
from targets.errors import InputError


@dataclass(frozen=True)
class NamedState:
    """A state tensor by the names of its input and output in an exported graph."""

    past: str
    present: str
    spec: StateSpec

    def fresh(self, batch: int, past: int = 0) -> Tensor:
        """Zeros (B, *shape): the state before the first token; `past` rows where it grows."""
        return torch.zeros(batch, *(past if size == PAST else size for size in self.spec.shape))  # type: ignore[arg-type]


def named_states(model: Transformer) -> list[list[NamedState]]:
    """Per step of the schedule. Caches have the names of Optimum (`past_key_values.N.key` -> `present.N.key`), states
    of fixed size `past_N_NAME` -> `present_N_NAME`; N is the step. Raises InputError for a model that looks ahead."""
    specs = model.state_specs()
    if specs is None:
        raise InputError("the model looks ahead (a block is bidirectional), so it has no recurrent form")
    return [[_named(step, spec) for spec in state] for step, state in enumerate(specs)]


def _named(step: int, spec: StateSpec) -> NamedState:
    if spec.grows:
        return NamedState(f"past_key_values.{step}.{spec.name}", f"present.{step}.{spec.name}", spec)
    return NamedState(f"past_{step}_{spec.name}", f"present_{step}_{spec.name}", spec)


class Streaming(nn.Module):
    """`forward` maps a dict of inputs and past states to (output, present states ...)."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model
        self.states = named_states(model)

    @property
    def flat(self) -> list[NamedState]:
        """All states in the order of the outputs."""
        return [state for states in self.states for state in states]

    @property
    def caches(self) -> bool:
        """Whether some state grows with the sequence, so that `attention_mask` covers the past too."""
        return any(state.spec.grows for state in self.flat)

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        past: list[State] = [tuple(inputs[state.past] for state in states) for states in self.states]
        output, present = self.model.chunk(inputs, past)
        return output, *(tensor for state in present for tensor in state)
