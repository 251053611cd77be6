"""The canonical transformer: every family is read into it and every rewrite maps it to another one.

B batch, N tokens, D hidden size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import Tensor, nn

from compress.model.block import Block, Site
from compress.model.mixer import State, StateSpec
from compress.model.sequence import Context, Tokens
from compress.model.structure import Structure

#: Called with the index of the step in the schedule, the site in its block, and the tokens seen there.
StepObserver = Callable[[int, Site, Tokens], None]


class Transformer(nn.Module):
    """embed -> blocks in the order of the schedule -> final norm -> head."""

    def __init__(self, structure: Structure) -> None:
        super().__init__()
        self.structure = structure
        self.embed = structure.embed.build(structure.hidden_size)
        self.blocks = nn.ModuleList(spec.build(structure.hidden_size) for spec in structure.blocks)
        norm = structure.final_norm
        self.final_norm = norm.build(structure.hidden_size, loops=1) if norm else None
        self.head = structure.head.build(structure.hidden_size)

    def forward(self, inputs: dict[str, Tensor], observe: StepObserver | None = None) -> Tensor:
        """The task's answer (see `Head.answer`); for classifiers the logits (B, classes), for language models
        those of every next token (B, N, vocabulary). `observe` sees the tensors on the way."""
        return self.head.answer(self.outputs(inputs, observe))

    def outputs(self, inputs: dict[str, Tensor], observe: StepObserver | None = None) -> dict[str, Tensor]:
        """Everything that the head gives, by its names and in their order."""
        x_BND, context = self.embed(inputs)
        for index, step in enumerate(self.structure.schedule):
            block = self.block(step.block)
            if observe is None:
                x_BND, context = block(x_BND, step.loop, context)
            else:
                x_BND, context = block(x_BND, step.loop, context, _at_step(observe, index))
        return self._answer(x_BND, context)

    def state_specs(self) -> list[tuple[StateSpec, ...]] | None:
        """Per step of the schedule what `chunk` hands on; None if some block looks ahead."""
        specs = [self.block(step.block).state_spec() for step in self.structure.schedule]
        known = [spec for spec in specs if spec is not None]
        return known if len(known) == len(specs) else None

    def chunk(self, inputs: dict[str, Tensor], states: list[State]) -> tuple[dict[str, Tensor], list[State]]:
        """The outputs for the next tokens, and the state of each step after them (see `Mixer.chunk`). The inputs are
        those of `forward`, with `position_ids` where a position matters and the past in front of `attention_mask`."""
        x_BND, context = self.embed(inputs)
        after = []
        for step, state in zip(self.structure.schedule, states, strict=True):
            x_BND, new = self.block(step.block).chunk(x_BND, state, step.loop, context)
            after.append(new)
        return self._answer(x_BND, context), after

    def _answer(self, x_BND: Tensor, context: Context) -> dict[str, Tensor]:
        x_BND = self.head.select(x_BND)
        if self.final_norm is not None:
            x_BND = self.final_norm(x_BND)
        return self.head(x_BND, context, self.embed)

    def block(self, index: int) -> Block:
        """The unique block with this index."""
        block = self.blocks[index]
        assert isinstance(block, Block)
        return block

    def copy(self) -> Transformer:
        """A model of its own with the same structure and weights."""
        return copy.deepcopy(self)

    def num_parameters(self) -> int:
        """Trained numbers, tied ones counted once."""
        return sum(parameter.numel() for parameter in self.parameters())


def _at_step(observe: StepObserver, index: int) -> Callable[[Site, Tokens], None]:
    return lambda site, tokens: observe(index, site, tokens)
