"""The structure of a model: everything but its weights, as one JSON document."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import NonNegativeInt, PositiveInt, model_validator

from compress.model import embeds as _embeds  # noqa: F401  (registers the kinds)
from compress.model import heads as _heads  # noqa: F401
from compress.model.block import BlockSpec
from compress.model.embed import AnyEmbed
from compress.model.head import AnyHead
from compress.model.norms import NormSpec
from compress.spec import Spec
from targets.errors import InputError

SCHEMA_VERSION: Literal[1] = 1


class Step(Spec):
    """One entry of the schedule: which block runs, in its which loop, and the index of the original's layer that it
    comes from."""

    block: int
    loop: int = 0
    origin: int


class Structure(Spec):
    """embed -> blocks in the order of the schedule -> final norm -> head. `encoder`: a stack of its own, whose tokens
    the blocks' cross-attention reads. `follows`: the blocks have no tokens of their own and read those of the source
    behind this one, each a place later (BART's classifiers)."""

    schema_version: Literal[1] = SCHEMA_VERSION
    task: str
    hidden_size: PositiveInt
    embed: AnyEmbed
    blocks: tuple[BlockSpec, ...]
    schedule: tuple[Step, ...]
    final_norm: NormSpec | None
    head: AnyHead
    labels: tuple[str, ...]
    preprocessing: dict[str, Any]
    encoder: Structure | None = None
    follows: NonNegativeInt | None = None

    @model_validator(mode="after")
    def _schedule_runs_every_loop_once(self) -> Structure:
        wanted = {(index, loop) for index, block in enumerate(self.blocks) for loop in range(block.loops)}
        given = [(step.block, step.loop) for step in self.schedule]
        if len(given) != len(set(given)) or set(given) != wanted:
            raise ValueError(f"the schedule {given} does not run each loop of each block once")
        return self

    @model_validator(mode="after")
    def _who_crosses_has_a_memory(self) -> Structure:
        crossing = any(block.cross is not None for block in self.blocks)
        if crossing != (self.encoder is not None):
            raise ValueError("cross-attention and an encoder belong together, and one of the two is missing")
        if self.follows is not None and not crossing:
            raise ValueError("a model without an encoder has no source to follow")
        return self


def output_targets(structure: Structure, original: Structure) -> list[int]:
    """For each step, the original's step whose output it should give: the last one before the next step's origin,
    so that a block before a gap takes over what was dropped behind it. Raises InputError as `check_width` does."""
    check_width(structure, original)
    origins = [step.origin for step in structure.schedule]
    return [following - 1 for following in origins[1:]] + [len(original.schedule) - 1]


def tapped_steps(structure: Structure) -> list[int]:
    """For each layer that the head taps, how many steps run before its tokens are taken: all up to the last one that
    comes from this layer or an earlier one."""
    origins = [step.origin for step in structure.schedule]
    return [
        1 + max((at for at, origin in enumerate(origins) if origin <= tap), default=-1) for tap in structure.head.tapped
    ]


def check_width(structure: Structure, original: Structure) -> None:
    """Raises InputError if the two have streams of different sizes, so that neither stands for the other."""
    mine, theirs = structure.hidden_size, original.hidden_size
    if mine != theirs:
        raise InputError(
            f"the model's hidden size is {mine} and the original's {theirs}; apply slice-width last, and heal with "
            f"heal.hidden = 0 and no transfer"
        )
