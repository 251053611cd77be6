"""Words of a text: where they stand, which token is the first of each, and which of them a tag says belong together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from runtime.texts.text import Tokenizer

NO_ENTITY = "O"


class Entity(NamedTuple):
    """Words `first` to `last` (inclusive) that are one thing of a `kind`."""

    kind: str
    first: int
    last: int


def places_of(text: str) -> list[tuple[int, int]]:
    """Where each word begins and ends; spaces separate words."""
    return [found.span() for found in re.finditer(r"\S+", text)]


def first_tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Of each word of each text the place of its first token; -1 for one that was cut off or has no token."""
    found = []
    for text, offsets in zip(texts, tokenizer.offsets(texts), strict=True):
        real = [(place, start) for place, (start, end) in enumerate(offsets) if end > start]
        found.append([next((place for place, at in real if start <= at < end), -1) for start, end in places_of(text)])
    return found


def entities_of(tags: Sequence[str]) -> list[Entity]:
    """The entities that tags in any of the schemes IO, BIO and BIOES mean, as conlleval and seqeval read them: a chunk
    ends where a tag begins another, also without B."""
    found: list[Entity] = []
    open_kind, first, before = "", -1, NO_ENTITY
    for place, tag in enumerate([*tags, NO_ENTITY]):
        mark, kind = split_tag(tag)
        if first >= 0 and (mark in "BSO" or before in "ES" or kind != open_kind):
            found.append(Entity(open_kind, first, place - 1))
            first = -1
        if mark != NO_ENTITY and first < 0:
            open_kind, first = kind, place
        before = mark
    return found


def split_tag(tag: str) -> tuple[str, str]:
    """'B-PER' -> B, PER; a tag without B, I, E or S before a hyphen is all kind, and its words are inside of it."""
    if tag == NO_ENTITY or not tag:
        return NO_ENTITY, ""
    mark, hyphen, kind = tag.partition("-")
    return (mark, kind) if hyphen and mark in {"B", "I", "E", "S"} else ("I", tag)
