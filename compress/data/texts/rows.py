"""A sample of texts as a file has it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One text or a pair of them. `name`: file and line, for messages. `fault`: why it cannot be used. `tags`: one for
    each word of the text, which spaces separate; () without. `labels`: several at once; None where no column says them.
    `marks`: the columns of 0 and 1, and whether the text has it. `answers`: to the question that the first text is, as
    they stand in the second; () where it has none, None where nothing says."""

    name: str
    texts: tuple[str, ...]
    label: str | None = None
    score: float | None = None
    fault: str | None = None
    tags: tuple[str, ...] = ()
    labels: tuple[str, ...] | None = None
    marks: tuple[tuple[str, bool], ...] = ()
    answers: tuple[str, ...] | None = None
