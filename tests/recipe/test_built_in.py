"""What the built-in recipes promise to every model of their kind."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

RECIPES = sorted((Path(__file__).parents[2] / "compress" / "recipes").rglob("*.toml"))


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_what_costs_nothing_ends_no_run(file: Path) -> None:
    """Rotary positions refuse the one, layers of other kinds both; the rest of the recipe makes sense all the same."""
    tables = tomllib.loads(file.read_text(encoding="utf-8")).get("rewrite", [])
    free = [table for table in tables if table["use"] in ("drop-key-bias", "fold-value-bias")]
    assert all(table.get("optional") for table in free)
