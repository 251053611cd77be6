"""A looped model at other numbers of loops: against blocks that are called one after the other by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny import block_spec, images, model_of

from compress.model import Step, Transformer, load, save
from compress.model.forms.loops import at_loops, most_loops
from compress.model.per_loop import PerLoopSpec
from targets.errors import InputError

OWN = PerLoopSpec(delta_rank=2, signal_rank=1, timestep=True)


def looped(order: list[int], seed: int = 0, **rest: Any) -> Transformer:
    """A random model that runs the blocks in this order, every loop with parts of its own."""
    blocks = [block_spec(loops=order.count(block), per_loop=OWN, **rest) for block in range(max(order) + 1)]
    seen = [0] * len(blocks)
    schedule = []
    for origin, block in enumerate(order):
        schedule.append(Step(block=block, loop=seen[block], origin=origin))
        seen[block] += 1
    return model_of(*blocks, seed=seed, schedule=tuple(schedule))


@torch.no_grad()
def by_hand(model: Transformer, order: list[tuple[int, int]]) -> torch.Tensor:
    x_BND, context = model.embed(images(model))
    for block, loop in order:
        x_BND, context = model.block(block)(x_BND, loop, context)
    assert model.final_norm is not None
    answer: torch.Tensor = model.head(model.final_norm(model.head.select(x_BND)), context, model.embed)["logits"]
    return answer


@pytest.mark.parametrize(
    ("order", "loops", "runs"),
    [
        ([0, 1, 1, 1, 2], 1, [(0, 0), (1, 0), (2, 0)]),
        ([0, 1, 1, 1, 2], 2, [(0, 0), (1, 0), (1, 1), (2, 0)]),
        ([0, 1, 1, 1, 2], 5, [(0, 0), (1, 0), (1, 1), (1, 2), (1, 2), (1, 2), (2, 0)]),
        ([0, 1, 0, 1], 1, [(0, 0), (1, 0)]),
        ([0, 1, 0, 1], 3, [(0, 0), (1, 0), (0, 1), (1, 1), (0, 1), (1, 1)]),
        ([0, 0, 1, 1], 3, [(0, 0), (0, 1), (0, 1), (1, 0), (1, 1), (1, 1)]),
        ([0, 1, 0, 1, 0], 4, [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 1), (0, 2)]),
    ],
)
def test_other_numbers_of_loops_run_the_blocks_that_they_should(
    order: list[int], loops: int, runs: list[tuple[int, int]]
) -> None:
    model = looped(order)
    with torch.no_grad():
        assert torch.equal(at_loops(model, loops)(images(model)), by_hand(model, runs))


@settings(max_examples=20, deadline=None)
@given(order=st.lists(st.integers(0, 2), min_size=2, max_size=7), loops=st.integers(1, 6), seed=st.integers(0, 9))
def test_the_first_loops_are_a_prefix_whatever_the_schedule(order: list[int], loops: int, seed: int) -> None:
    order = [sorted(set(order)).index(block) for block in order]
    model = looped(order, seed)
    if most_loops(model.structure) == 1:
        with pytest.raises(InputError, match="no block of this model is looped"):
            at_loops(model, loops)
        return
    fewer = at_loops(model, loops)
    steps = [(step.block, step.loop) for step in model.structure.schedule]
    runs = [(step.block, min(step.loop, order.count(step.block) - 1)) for step in fewer.structure.schedule]
    if loops <= most_loops(model.structure):
        assert runs == [step for step in steps if step[1] < loops or order.count(step[0]) == 1]
    else:
        assert len(runs) == len(steps) + (loops - most_loops(model.structure)) * sum(
            spec.loops > 1 for spec in model.structure.blocks
        )
    with torch.no_grad():
        assert torch.equal(fewer(images(model)), by_hand(model, runs))


def test_all_loops_are_the_model_and_share_its_parameters(tmp_path: Any) -> None:
    model = looped([0, 1, 1, 1, 2])
    same, fewer, more = (at_loops(model, loops) for loops in (3, 2, 5))
    assert same.structure == model.structure
    mine = {id(parameter) for parameter in model.parameters()}
    assert {id(parameter) for parameter in more.parameters()} == mine
    assert {id(parameter) for parameter in fewer.parameters()} < mine
    save(fewer, tmp_path / "fewer")
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "fewer")(images(model)), fewer(images(model)))
