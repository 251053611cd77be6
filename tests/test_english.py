"""The pages that newcomers read are written in plain English, by the rules of CONTRIBUTING."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgepress.command import VERBS

ROOT = Path(__file__).parents[1]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", *(ROOT / "examples").glob("*.md")])
#: Pages of steps, in which no sentence is long. The others are to follow.
PLAIN = [
    *(page for page in PAGES if page.parent.name in ("guide", "examples") or page.name.startswith("add-a-")),
    ROOT / "docs" / "develop" / "README.md",
    *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
]
MOST_WORDS = 30
FORBIDDEN = r"\b(?:(?:is|are) told|let be|so many|but for|what it made of|asks the model)\b"
WITH_Z = r"\b(?:de)?(?:quant|optim|normal|general|serial|initial|summar)is(?:e|ed|es|er|ers|ing|ation)\b"
#: Pages that quote what they forbid, or messages as they were measured.
QUOTING = {"CONTRIBUTING.md", "models.md"}


def prose(text: str) -> str:
    """A page without code, tables, links' targets and headings."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    text = re.sub(r"`[^`]*`", "code", text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith(("|", "#")))


def sentences(text: str) -> list[str]:
    """They end at a full stop, a question mark or a colon; an item of a list and a paragraph end one too."""
    blocks = re.split(r"\n\s*\n|\n\s*(?:[*-]|\d+\.) ", prose(text))
    return [part for block in blocks for part in re.split(r"[.?!:;][*)]*\s", " ".join(block.split()))]


@pytest.mark.parametrize("page", PLAIN, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_sentence_is_long(page: Path) -> None:
    long = [one for one in sentences(page.read_text(encoding="utf-8")) if len(one.split()) > MOST_WORDS]
    assert long == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in QUOTING], ids=lambda page: page.stem)
def test_phrases_that_native_readers_stumble_over_are_gone(page: Path) -> None:
    text = prose(page.read_text(encoding="utf-8"))
    assert re.findall(f"{FORBIDDEN}|{WITH_Z}", text, re.IGNORECASE) == []


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "guide").glob("*.md")), ids=lambda page: page.stem)
def test_a_guide_is_read_in_minutes(page: Path) -> None:
    assert len(page.read_text(encoding="utf-8").splitlines()) < 80


def test_the_help_of_the_command_follows_the_rules() -> None:
    for verb in VERBS.values():
        assert len(verb.does.split()) <= 12 and not re.search(f"{FORBIDDEN}|{WITH_Z}", verb.does)
