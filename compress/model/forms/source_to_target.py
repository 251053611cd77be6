"""A model of an encoder and a decoder as one map from a source, target tokens and the past to outputs, the present and
what is kept of the source: the form that is exported, and cut in two where that is handed over (`export.cut`).

B batch, S tokens of the source, P target tokens before, N at hand.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compress.model.embeds.token import TokenEmbedSpec
from compress.model.forms.streaming import NamedState, named_states
from compress.model.mixer import PAST, StateSpec
from compress.model.mixer import State as MixerState
from compress.model.structure import Structure
from compress.model.transformer import Transformer
from runtime import states
from runtime.texts.text import INPUTS, TARGET

#: Counts the tokens of the past (B,1), for a model that has no cache to measure and looks at positions.
COUNT = NamedState("past_count", "present_count", StateSpec("count", (1,)))


class SourceToTarget(nn.Module):
    """`forward` maps a dict of inputs and past states to (outputs ..., present states ..., memory ...).

    Inputs: `input_ids` and `attention_mask` (B,S), the source and 1 at its real tokens; `decoder_input_ids` (B,N), all
    real; the past states. The memory is what each block keeps of the source, named as `runtime.states` says.
    """

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model
        self.states = named_states(model)
        own = [state for step in self.states for state in step]
        self.cache = next((state for state in own if state.spec.grows), None)
        self.counts = self.cache is None and _has_positions(model.structure)
        self.flat = [*own, COUNT] if self.counts else own
        self.memory = [
            states.memory_name(step, one.name) for step, kept in enumerate(model.kept_specs()) for one in kept
        ]
        self.memory += model.head.kept

    @property
    def outputs(self) -> list[str]:
        """Names of what `forward` gives, in order."""
        return [*self.model.head.outputs, *(state.present for state in self.flat), *self.memory]

    @property
    def dynamic(self) -> dict[str, dict[int, str]]:
        """The dynamic dimensions of the inputs: `batch`, `length` of the source, `chunk` and `past` of the target."""
        known = {name: {0: states.BATCH, 1: "length"} for name in INPUTS}
        known[TARGET] = {0: states.BATCH, 1: "chunk"}
        for state in self.flat:
            known[state.past] = {0: states.BATCH, **{axis + 1: PAST for axis in state.spec.growing}}
        return {**known, **{name: {0: name} for name in self.model.head.chunk_inputs()}}

    def example(self, batch: int, length: int, chunk: int, past: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Random inputs in the middle of target sequences; all sources but the first have padding at the end."""
        embed = self.model.structure.embed
        real_B1 = torch.randint(1, length + 1, (batch, 1), generator=generator)
        real_B1[0] = length
        ids, mask = INPUTS
        inputs = {
            ids: embed.sequence(batch, length, generator)[ids],
            mask: (torch.arange(length)[None] < real_B1).long(),
            TARGET: embed.sequence(batch, chunk, generator)[ids],
        }
        for state in self.flat:
            fresh = state.fresh(batch, past)
            inputs[state.past] = torch.rand(fresh.shape, generator=generator)
        if self.counts:
            inputs[COUNT.past] = torch.full((batch, 1), float(past))
        return inputs | self.model.head.chunk_inputs()

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        ids, mask = INPUTS
        source = {ids: inputs[ids], mask: inputs[mask]}
        kept, read = self.model.kept(self.model.remembered(source)), self.model.head.keep(source)
        own = {ids: inputs[TARGET], states.PLACES: self._places(inputs), states.SOURCE_MASK: inputs[mask], **read}
        own |= {name: inputs[name] for name in self.model.head.chunk_inputs()}
        past: list[MixerState] = [tuple(inputs[state.past] for state in step) for step in self.states]
        outputs, present = self.model.chunk(own, past, kept)
        after = [tensor for state in present for tensor in state]
        if self.counts:
            tokens_B1 = torch.ones_like(inputs[TARGET]).sum(dim=1, keepdim=True)  # float(N) would be a constant
            after.append(inputs[COUNT.past] + tokens_B1.to(inputs[COUNT.past].dtype))
        return *outputs.values(), *after, *(tensor for step in kept for tensor in step), *read.values()

    def _places(self, inputs: dict[str, Tensor]) -> Tensor:
        """The place of each target token (1 or B, N): behind what a cache holds, or behind what was counted."""
        embed, count = self.model.structure.embed, inputs[TARGET].shape[1]
        offset = embed.offset if isinstance(embed, TokenEmbedSpec) else 0
        if self.cache is None:
            place_N = torch.arange(offset, offset + count)
            return inputs[COUNT.past].long() + place_N if self.counts else place_N[None]
        past = inputs[self.cache.past].shape[self.cache.spec.growing[0] + 1]
        return torch.arange(past + offset, past + offset + count)[None]


def _has_positions(structure: Structure) -> bool:
    return isinstance(structure.embed, TokenEmbedSpec) and structure.embed.max_positions > 0
