"""A looped model run for fewer or for more loops than it was built with: a model of its own over the same weights."""

from __future__ import annotations

import re
from itertools import groupby

from compress.model.structure import Step, Structure
from compress.model.transformer import Transformer
from targets.errors import InputError

#: The names of what each loop has of its own end in the loop's number.
_OWN = re.compile(r"blocks\.(\d+)\..*\.(\d+)")


def most_loops(structure: Structure) -> int:
    """How often the block that is looped most often runs; 1 for a model without loops."""
    return max((spec.loops for spec in structure.blocks), default=1)


def at_loops(model: Transformer, loops: int) -> Transformer:
    """The model with its looped blocks run for the first `loops` loops, and everything behind them as it is: what an
    early exit after that loop answers. Beyond the loops that there are, the last one is run again, with what it has of
    its own. Parameters are shared with `model`, not copied, so training one trains both.

    Raises InputError if no block is looped.
    """
    full = most_loops(model.structure)
    if full == 1:
        raise InputError(f"{loops} loops are asked for, and no block of this model is looped; use tie-layers")
    structure = _structure(model.structure, loops, full)
    ours, state = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers()), {}
    result = Transformer(structure)
    for name in result.state_dict():
        own = _OWN.fullmatch(name)
        last = model.structure.blocks[int(own[1])].loops - 1 if own else 0
        state[name] = ours[f"{name.removesuffix(own[2])}{min(int(own[2]), last)}" if own else name]
    result.load_state_dict(state, assign=True)
    return result.train(model.training)


def kept_steps(structure: Structure, other: Structure) -> list[tuple[int, int]]:
    """The steps that two numbers of loops of one model have in common, as places in both schedules."""
    places = {(step.block, step.loop): place for place, step in enumerate(other.schedule)}
    return [
        (place, places[step.block, step.loop])
        for place, step in enumerate(structure.schedule)
        if (step.block, step.loop) in places
    ]


def _structure(structure: Structure, loops: int, full: int) -> Structure:
    counts = [_count(spec.loops, loops, full) for spec in structure.blocks]
    steps = [step for step in structure.schedule if step.loop < counts[step.block]]
    if loops > full:
        steps = _extended(steps, counts)
    blocks = tuple(spec.replace(loops=count) for spec, count in zip(structure.blocks, counts, strict=True))
    return structure.replace(blocks=blocks, schedule=tuple(steps))


def _count(own: int, loops: int, full: int) -> int:
    """Loops of a block that has `own` of the `full` ones."""
    return own if own == 1 else min(own, loops) if loops <= full else own + loops - full


def _extended(steps: list[Step], counts: list[int]) -> list[Step]:
    """More loops behind the last one of each block; blocks that take turns (0 1 2 0 1 2) go on doing so."""
    result: list[Step] = []
    for _, turn in groupby(_turns(steps), key=lambda one: one[0]):
        some = [step for _, step in turn]
        result += some
        last = {step.block: step for step in some}  # in the order in which they take turns
        for loop in range(max(counts[block] for block in last)):
            result += [
                Step(block=block, loop=loop, origin=step.origin)
                for block, step in last.items()
                if step.loop < loop < counts[block]
            ]
    return result


def _turns(steps: list[Step]) -> list[tuple[int, Step]]:
    """Each step with the number of its stretch: blocks whose first and last runs overlap share one."""
    last = {step.block: place for place, step in enumerate(steps)}
    turns, end = [], -1
    number = 0
    for place, step in enumerate(steps):
        if place > end:
            number += 1
        end = max(end, last[step.block])
        turns.append((number, step))
    return turns
