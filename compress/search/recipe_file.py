"""A recipe as a TOML file that `compress.run` reads to the same recipe."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from typing import Any

from compress.recipe import Recipe


def to_toml(recipe: Recipe, remarks: Sequence[str]) -> str:
    """What differs from the defaults, with remarks above."""
    table = recipe.model_dump(mode="json", exclude_defaults=True)
    lines = [f"# {remark}" for remark in remarks]
    for rewrite in table.pop("rewrite", []):
        lines += ["", "[[rewrite]]", *_pairs(rewrite)]
    for name, values in table.items():
        lines += ["", f"[{name}]", *_pairs(values)]
    text = "\n".join(lines) + "\n"
    assert Recipe.model_validate(tomllib.loads(text)) == recipe
    return text


def _pairs(table: dict[str, Any]) -> list[str]:
    return [f"{key} = {_value(value)}" for key, value in table.items() if value is not None]


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    # TOML's basic strings, numbers and truth are written as JSON's, for what a recipe can hold.
    return json.dumps(value, ensure_ascii=False)
