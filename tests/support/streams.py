"""Small decoders, and their logits when a sequence comes in chunks."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.model import Step, Structure, Transformer
from compress.model.block import BlockSpec
from compress.model.embeds.token import TokenEmbedSpec
from compress.model.forms.streaming import Streaming
from compress.model.heads.language_model import LanguageModelSpec
from compress.model.norms import NormSpec
from support.tiny import HIDDEN, randomized

VOCABULARY = 11


def decoder(*blocks: BlockSpec, tied: bool = True) -> Transformer:
    structure = Structure(
        task="causal-lm",
        hidden_size=HIDDEN,
        embed=TokenEmbedSpec(vocab_size=VOCABULARY, max_positions=32),
        blocks=blocks,
        schedule=tuple(Step(block=index, origin=index) for index in range(len(blocks))),
        final_norm=NormSpec(),
        head=LanguageModelSpec(vocab_size=VOCABULARY, tied=tied),
        labels=(),
        preprocessing={},
    )
    return randomized(Transformer(structure), 0).double().eval()


def streamed(model: Transformer, ids_BN: Tensor, mask_BN: Tensor, sizes: list[int]) -> Tensor:
    """The logits of all tokens, fed in chunks of these sizes, then the rest."""
    streaming = Streaming(model)
    place_BN = (mask_BN.cumsum(1) - 1).clamp(min=0)
    state = {one.past: one.fresh(len(ids_BN)).double() for one in streaming.flat}
    parts, start = [], 0
    for size in [*sizes, ids_BN.shape[1] - sum(sizes)]:
        span = slice(start, start + size)
        start += size
        inputs = {"input_ids": ids_BN[:, span], "attention_mask": mask_BN[:, :start], "position_ids": place_BN[:, span]}
        output, *present = streaming({**inputs, **state})
        state = dict(zip(state, present, strict=True))
        parts.append(output)
    return torch.cat(parts, dim=1)
