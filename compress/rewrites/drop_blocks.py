"""drop-blocks: whole blocks go. The baseline that every other rewrite must beat. B batch, N tokens, D hidden size."""

from __future__ import annotations

import torch
from pydantic import Field
from torch.nn import functional as F

from compress.model.block import BlockSpec, Site
from compress.model.sequence import aligned
from compress.model.structure import Step
from compress.model.transformer import Transformer
from compress.rewrites.calibration import Calibration, step_of, taps
from compress.rewrites.layers import Layers, resolve
from compress.rewrites.rewrite import Options, rewrite
from compress.rewrites.search_range import SearchRange, nothing_to_choose
from compress.rewrites.surgery import rebuilt, single_loop
from targets.errors import InputError

NAME = "drop-blocks"


class DropBlocks(Options):
    layers: Layers = Field(examples=[[0]])


@rewrite(NAME, DropBlocks, search=SearchRange(("mixer", "ffn"), nothing_to_choose, renumbers=True))
def drop_blocks(model: Transformer, options: DropBlocks, calibration: Calibration) -> Transformer:
    """Remove whole blocks from the schedule.

    "auto:K" takes the blocks that change their input least: block influence 1 - E cos(x_in, x_out) over calibration
    tokens (ShortGPT, Men et al. 2024). Not exact. Refused for looped blocks.
    """
    dropped = resolve(
        options.layers,
        model,
        _check,
        lambda blocks: influence(model, calibration, blocks),
    )
    count = len(model.structure.blocks)
    if len(dropped) == count:
        raise InputError(f"{NAME}: layers would remove all {count} blocks; keep one at least")
    kept = [block for block in range(count) if block not in dropped]
    number = {block: index for index, block in enumerate(kept)}
    structure = model.structure.replace(
        blocks=tuple(model.structure.blocks[block] for block in kept),
        schedule=tuple(
            Step(block=number[step.block], loop=step.loop, origin=step.origin)
            for step in model.structure.schedule
            if step.block in number
        ),
    )
    calibration.note(f"{NAME}: removes blocks {dropped}")
    return rebuilt(model, structure, dict(enumerate(kept)))


def _check(spec: BlockSpec) -> None:
    single_loop(spec, NAME)
    if spec.reducer is not None and spec.leading is None:
        raise InputError(f"{NAME} is refused for a block behind which tokens are pooled; drop blocks before pooling")


def influence(model: Transformer, calibration: Calibration, blocks: list[int]) -> dict[int, float]:
    """Block influence 1 - E cos(x_in, x_out) over the calibration tokens, in one pass."""
    steps = {block: step_of(model, block) for block in blocks}
    sites: tuple[Site, Site] = ("whole", "out")
    wanted = {(step, site) for step in range(len(model.structure.schedule)) for site in sites}
    totals, count = dict.fromkeys(blocks, 0.0), 0
    for inputs in calibration.batches():
        seen = taps(model, inputs, wanted)
        count += 1
        for block, step in steps.items():
            before, after = seen[step - 1, "out"] if step else model.begun(inputs), seen[step, "whole"]
            cosine_BN = F.cosine_similarity(aligned(before, after.context), after.x_BND, dim=-1)
            real_BN = after.real_BN
            real = cosine_BN if real_BN is None else cosine_BN[real_BN]
            totals[block] += float(real.mean(dtype=torch.float64))
    return {block: 1 - total / count for block, total in totals.items()}
