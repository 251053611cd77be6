"""A causal model as a map from inputs and past state to output and present state: the form that is exported.

B batch, P tokens before, N tokens of the chunk, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.model.embeds.token import TokenEmbedSpec
from compress.model.mixer import PAST, StateSpec
from compress.model.mixer import State as MixerState
from compress.model.structure import Structure
from compress.model.transformer import Transformer
from runtime import states
from runtime.bundles.manifest import State
from targets.errors import InputError


@dataclass(frozen=True)
class NamedState:
    """A state tensor by the names of its input and output in an exported graph."""

    past: str
    present: str
    spec: StateSpec

    @property
    def declared(self) -> State:
        """What a graph and a manifest say of it."""
        return State(self.past, self.present, "float32", (states.BATCH, *self.spec.shape))

    def fresh(self, batch: int, past: int = 0) -> Tensor:
        """Zeros (B, *shape): the state before the first token; `past` rows where it grows."""
        return torch.zeros(states.sized(self.declared.shape, {states.BATCH: batch, PAST: past}))


def named_states(model: Transformer) -> list[list[NamedState]]:
    """Per step of the schedule, named as `runtime.states` says. Raises InputError for a model that looks ahead."""
    specs = model.state_specs()
    if specs is None:
        raise InputError("the model looks ahead (a block is bidirectional), so it has no recurrent form")
    return [
        [NamedState(*states.names(step, spec.name, spec.grows), spec) for spec in state]
        for step, state in enumerate(specs)
    ]


class Streaming(nn.Module):
    """`forward` maps a dict of inputs and past states to (outputs ..., present states ...).

    Inputs: what the embedding reads, `input_ids` (B,N) or `windows` (B,N,C); `attention_mask`, 1 at real tokens,
    (B,P+N) where the model has caches, else (B,N); `position_ids` (B,N) if the model looks at positions, counted from
    the first real token; then the past states.
    """

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model
        self.states = named_states(model)

    @property
    def flat(self) -> list[NamedState]:
        """All states in the order of the outputs."""
        return [state for step in self.states for state in step]

    @property
    def caches(self) -> bool:
        """Whether some state grows with the sequence, so that `attention_mask` covers the past too."""
        return any(state.spec.grows for state in self.flat)

    @property
    def outputs(self) -> list[str]:
        """Names of what `forward` gives, in order."""
        return [*self.model.head.outputs, *(state.present for state in self.flat)]

    @property
    def dynamic(self) -> dict[str, dict[int, str]]:
        """The dynamic dimensions of the inputs: `batch`, `chunk`, `past` and `total`, which is past + chunk."""
        tokens = {0: states.BATCH, 1: "chunk"}
        known = dict.fromkeys(self._sequence(1, 1, torch.Generator()), tokens)
        known[states.MASK] = {0: states.BATCH, 1: "total"} if self.caches else tokens
        if _looks_at_positions(self.model.structure):
            known[states.PLACES] = tokens
        for state in self.flat:
            known[state.past] = {0: states.BATCH, **{axis + 1: PAST for axis in state.spec.growing}}
        return known

    def example(self, batch: int, chunk: int, past: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Random inputs in the middle of sequences, the first of which has no padding, the others on the left."""
        padding_B1 = torch.randint(past + 1, (batch, 1), generator=generator)
        padding_B1[0] = 0
        mask_BM = (torch.arange(past + chunk) >= padding_B1).long()
        inputs = {
            **self._sequence(batch, chunk, generator),
            states.MASK: mask_BM if self.caches else mask_BM[:, past:],
            states.PLACES: torch.from_numpy(states.positions(mask_BM.numpy())[:, past:]),
        }
        for state in self.flat:
            fresh = state.fresh(batch, past)
            inputs[state.past] = torch.rand(fresh.shape, generator=generator)
        return {name: inputs[name] for name in self.dynamic}

    def _sequence(self, batch: int, tokens: int, generator: torch.Generator) -> dict[str, Tensor]:
        return self.model.structure.embed.sequence(batch, tokens, generator)

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        past: list[MixerState] = [tuple(inputs[state.past] for state in step) for step in self.states]
        outputs, present = self.model.chunk(inputs, past)
        return *outputs.values(), *(tensor for state in present for tensor in state)


def _looks_at_positions(structure: Structure) -> bool:
    """Whether the embedding or some block (by its rotary positions) does."""

    def rotary(value: Any) -> bool:
        if isinstance(value, dict):
            return bool(value.get("rope")) or any(map(rotary, value.values()))
        return isinstance(value, list) and any(map(rotary, value))

    embed = structure.embed
    learned = isinstance(embed, TokenEmbedSpec) and embed.max_positions > 0
    return learned or rotary([block.model_dump(mode="json") for block in structure.blocks])
