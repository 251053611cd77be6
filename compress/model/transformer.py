"""The canonical transformer: every family is read into it and every rewrite maps it to another one.

B batch, N tokens, S tokens of a source, D hidden size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from compress.model.block import Block, Site
from compress.model.embeds.token import TokenEmbed
from compress.model.mixer import State, StateSpec
from compress.model.sequence import Context, Memory, Tokens
from compress.model.structure import Structure, tapped_steps

#: Called with the index of the step in the schedule, the site in its block, and the tokens seen there.
StepObserver = Callable[[int, Site, Tokens], None]


class Transformer(nn.Module):
    """embed -> blocks in the order of the schedule -> final norm -> head.

    One with an encoder reads the source as `input_ids` and `attention_mask`, and its own tokens as `decoder_input_ids`.
    """

    def __init__(self, structure: Structure) -> None:
        super().__init__()
        self.structure = structure
        self.embed = structure.embed.build(structure.hidden_size)
        self.blocks = nn.ModuleList(spec.build(structure.hidden_size) for spec in structure.blocks)
        norm = structure.final_norm
        self.final_norm = norm.build(structure.hidden_size, loops=1) if norm else None
        self.head = structure.head.build(structure.hidden_size)
        self.encoder = Transformer(structure.encoder) if structure.encoder else None
        if self.encoder is not None and isinstance(self.encoder.embed, TokenEmbed) and self.encoder.embed.spec.borrowed:
            assert isinstance(self.embed, TokenEmbed), "only a table of tokens can be lent"
            self.encoder.embed.borrow(self.embed)

    def forward(self, inputs: dict[str, Tensor], observe: StepObserver | None = None) -> Tensor:
        """The task's answer (see `Head.answer`); for classifiers the logits (B, classes), for language models
        those of every next token (B, N, vocabulary). `observe` sees the tensors on the way."""
        return self.head.answer(self.outputs(inputs, observe))

    def outputs(self, inputs: dict[str, Tensor], observe: StepObserver | None = None) -> dict[str, Tensor]:
        """Everything that the head gives, by its names and in their order."""
        x_BND, context = self.begun(inputs)
        taps, seen = tapped_steps(self.structure), [x_BND]
        for index, step in enumerate(self.structure.schedule):
            block = self.block(step.block)
            if observe is None:
                x_BND, context = block(x_BND, step.loop, context)
            else:
                x_BND, context = block(x_BND, step.loop, context, _at_step(observe, index))
            if taps:
                seen.append(x_BND)
        if taps:
            x_BND = torch.cat([seen[place] for place in taps], dim=1)
        return self._answer(x_BND, context, inputs)

    def remembered(self, inputs: dict[str, Tensor]) -> Memory:
        """What the encoder makes of a source: `input_ids` (B,S) and, where given, `attention_mask` (B,S)."""
        assert self.encoder is not None, "a model without an encoder remembers nothing"
        return Memory(inputs.get("attention_mask"), self.encoder(inputs))

    def kept(self, memory: Memory) -> list[tuple[Tensor, ...]]:
        """Per step of the schedule, what its cross-attention keeps of the source (see `Cross.keep`)."""
        return [
            () if cross is None else cross.keep(memory, step.loop)
            for step in self.structure.schedule
            for cross in [self.block(step.block).cross]
        ]

    def kept_specs(self) -> list[tuple[StateSpec, ...]]:
        """Per step of the schedule, what `kept` gives."""
        crosses = [self.block(step.block).cross for step in self.structure.schedule]
        return [() if cross is None else cross.kept_spec() for cross in crosses]

    def state_specs(self) -> list[tuple[StateSpec, ...]] | None:
        """Per step of the schedule what `chunk` hands on; None if some block looks ahead."""
        specs = [self.block(step.block).state_spec() for step in self.structure.schedule]
        known = [spec for spec in specs if spec is not None]
        return known if len(known) == len(specs) else None

    def chunk(
        self, inputs: dict[str, Tensor], states: list[State], kept: list[tuple[Tensor, ...]] | None = None
    ) -> tuple[dict[str, Tensor], list[State]]:
        """The outputs for the next tokens, and the state of each step after them (see `Mixer.chunk`). The inputs are
        those of the embedding, with `position_ids` where a position matters and the past in front of `attention_mask`.
        `kept`: what `kept` gave for the source, whose mask is `encoder_attention_mask`."""
        x_BND, context = self.embed(inputs)
        mask_BS = inputs.get("encoder_attention_mask")
        after = []
        for index, (step, state) in enumerate(zip(self.structure.schedule, states, strict=True)):
            if kept is not None:
                context = replace(context, memory=Memory(mask_BS, kept=kept[index]))
            x_BND, new = self.block(step.block).chunk(x_BND, state, step.loop, context)
            after.append(new)
        return self._answer(x_BND, context, inputs), after

    def begun(self, inputs: dict[str, Tensor]) -> Tokens:
        """The embedded tokens and their context; of a decoder its own tokens, with the source in the memory."""
        if self.encoder is None:
            return Tokens(*self.embed(inputs))
        own = self._behind(inputs) if self.structure.follows is not None else _of_target(inputs)
        x_BND, context = self.embed(own)
        return Tokens(x_BND, replace(context, memory=self.remembered(inputs)))

    def _behind(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The source again, each token a place later."""
        ids_BN = inputs["input_ids"]
        first_B1 = torch.full_like(ids_BN[:, :1], self.structure.follows or 0)
        return {**inputs, "input_ids": torch.cat([first_B1, ids_BN[:, :-1]], dim=1)}

    def _answer(self, x_BND: Tensor, context: Context, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        x_BND = self.head.select(x_BND)
        if self.final_norm is not None:
            x_BND = self.final_norm(x_BND)
        return self.head.from_inputs(x_BND, context, self.embed, inputs)

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


def _of_target(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """A decoder's own tokens, and 1 at the real ones of them where that is said."""
    own = {"input_ids": inputs["decoder_input_ids"]}
    if "decoder_attention_mask" in inputs:
        own["attention_mask"] = inputs["decoder_attention_mask"]
    return own


def _at_step(observe: StepObserver, index: int) -> Callable[[Site, Tokens], None]:
    return lambda site, tokens: observe(index, site, tokens)
