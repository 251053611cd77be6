"""LoRA: while a model heals, its maps change by low-rank products alone, which are added to the weights in the end.

O outputs, I inputs, R rank.
"""

from __future__ import annotations

import torch
from torch import nn

from compress.model.per_loop import PerLoopSpec
from compress.model.projection import Projection
from compress.model.transformer import Transformer
from targets.errors import InputError


def with_lora(model: Transformer, rank: int, seed: int) -> Transformer:
    """The model with W + up down, (O x R)(R x I), in place of each W of its blocks; the same function at the start
    (Hu et al. 2021, arXiv 2106.09685). Raises InputError for looped blocks and blocks that have deltas."""
    for spec in model.structure.blocks:
        if spec.loops > 1 or spec.per_loop != PerLoopSpec():
            raise InputError("heal.lora is refused for looped blocks: they have low-rank deltas of their own to train")
    blocks = tuple(spec.replace(per_loop=PerLoopSpec(delta_rank=rank)) for spec in model.structure.blocks)
    result = Transformer(model.structure.replace(blocks=blocks))
    result.load_state_dict(model.state_dict(), strict=False)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in result.modules():
            if isinstance(module, Projection):
                for down, up in zip(module.delta_down, module.delta_up, strict=True):
                    down.copy_(torch.randn(down.shape, generator=generator) * down.shape[1] ** -0.5)
                    up.zero_()
    return result.to(next(model.parameters()).device).train(model.training)


def lora_parameters(model: Transformer) -> list[nn.Parameter]:
    """What is trained: the products, and what new mixers have learned."""
    deltas = [
        parameter
        for module in model.modules()
        if isinstance(module, Projection)
        for parameter in (*module.delta_down, *module.delta_up)
    ]
    mixers = [block.mixer for block in map(model.block, range(len(model.structure.blocks))) if block.mixer is not None]
    learned = {id(parameter): parameter for mixer in mixers for parameter in mixer.learned()}
    return [*deltas, *(parameter for key, parameter in learned.items() if key not in {id(one) for one in deltas})]


def merged(model: Transformer) -> Transformer:
    """The model with the products added to the weights, and built as it was before."""
    blocks = tuple(spec.replace(per_loop=PerLoopSpec()) for spec in model.structure.blocks)
    result = Transformer(model.structure.replace(blocks=blocks))
    state = model.state_dict()
    for name, module in model.named_modules():
        if isinstance(module, Projection) and len(module.delta_down):
            state[f"{name}.weight"] = module.weight_of(0).detach()
    result.load_state_dict({name: state[name] for name in result.state_dict()})
    return result.to(next(model.parameters()).device).train(model.training)
