"""Pages, messages, help texts and docstrings are written in plain English, by the rules of CONTRIBUTING."""

from __future__ import annotations

import re
import tokenize
from pathlib import Path

import pytest

from edgepress.command import VERBS

ROOT = Path(__file__).parents[1]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", *(ROOT / "examples").glob("*.md")])
PLAIN = [*PAGES, *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"))]
MOST_WORDS = 30
#: "is no longer" and "there is no" are English; "is no number" is not.
IS_NO = r"(?<!here )(?:is|are) no (?!(?:longer|faster|better|more|less|worse|smaller|larger|way|need|other|one)\b)\w+"
FORBIDDEN = rf"\b(?:(?:is|are) told|let be|so many|but for|what it made of|asks the (?:model|original)|{IS_NO})\b"
STEMS = "quant|optim|normal|minim|maxim|general|serial|initial|summar|recogn|random|synchron"
WITH_Z = rf"\b\w*(?:{STEMS})is(?:e|ed|es|er|ers|ing|ation|ations)\b"
ROOMS = ("edgepress", "compress", "export", "runtime", "targets", "benchmarks", "examples", "tests")
CODE = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")) if path != Path(__file__)]
#: A key of results that were measured.
KEPT = {"recognised_percent"}
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


def said(path: Path) -> str:
    """Strings and comments of a Python file, and the names in it."""
    kinds = {tokenize.STRING, tokenize.COMMENT, tokenize.NAME, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    with path.open("rb") as file:
        return "\n".join(one.string for one in tokenize.tokenize(file.readline) if one.type in kinds)


@pytest.mark.parametrize("room", ROOMS)
def test_code_speaks_the_same_english(room: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {phrase}"
        for path in CODE
        if path.relative_to(ROOT).parts[0] == room
        for phrase in re.findall(f"{FORBIDDEN}|{WITH_Z}", said(path), re.IGNORECASE)
        if phrase not in KEPT
    ]
    assert found == []


def test_the_help_of_the_command_follows_the_rules() -> None:
    for verb in VERBS.values():
        assert len(verb.does.split()) <= 12 and not re.search(f"{FORBIDDEN}|{WITH_Z}", verb.does)
