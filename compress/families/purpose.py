"""What a checkpoint is read for, as far as a family has to know: tasks stand above families and hand it down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

#: What a checkpoint needs on top of its body.
Head = Literal[
    "classes",
    "score",
    "vector",
    "boxes",
    "depth",
    "pixel-classes",
    "keypoints",
    "next-token",
    "token-classes",
    "masked-token",
    "span",
    "replaced-token",
    "target-token",
    "scores",
]


@dataclass(frozen=True)
class Purpose:
    """`task`: its name, kept in the structure. `problem_type`: what config.json calls a head with labels that is for
    it. `heads`: the task -> the head, of all tasks on the same kind of input, for messages."""

    task: str
    head: Head
    problem_type: str
    heads: Mapping[str, Head]
