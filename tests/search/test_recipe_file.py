"""The recipe that a search writes is read to the same recipe."""

from __future__ import annotations

from pathlib import Path

from compress.recipe import builtin, load, parse
from compress.search.recipe_file import to_toml


def test_every_built_in_recipe_survives(tmp_path: Path) -> None:
    for name in builtin():
        recipe = load(name)
        path = tmp_path / f"{name}.toml"
        path.write_text(to_toml(recipe, ["a remark"]), encoding="utf-8")
        assert load(str(path)) == recipe


def test_names_with_quotes_and_other_scripts_survive(tmp_path: Path) -> None:
    recipe = parse({"model": {"source": 'a "model" \\ über'}, "data": {"source": "C:\\x\ty"}}, "test")
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(recipe, []), encoding="utf-8")
    assert load(str(path)) == recipe
