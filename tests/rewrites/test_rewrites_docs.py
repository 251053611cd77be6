"""The page on rewrites lists what there is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from compress.rewrites import REWRITES, parse_options

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "rewrites.md").read_text(encoding="utf-8")


def test_the_table_has_each_rewrite_with_its_options_and_its_exactness() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \|([^|]*)\|([^|]*)\|", PAGE, re.M)
    assert sorted(name for name, _, _ in rows) == sorted(REWRITES)
    for name, options, exact in rows:
        assert re.findall(r"`(\w+)`", options) == list(REWRITES[name].options.model_fields)
        assert (exact.strip() == "yes") == REWRITES[name].exact


def test_the_recommended_order_names_each_rewrite_once() -> None:
    order = PAGE.partition("## Recommended order")[2]
    steps = re.findall(r"^\d+\. (.*?)(?=^\d+\. |\Z)", order, re.M | re.S)
    named = [name for step in steps for name in dict.fromkeys(re.findall(r"`([a-z-]+)`", step)) if name in REWRITES]
    assert sorted(named) == sorted(REWRITES)


def test_the_example_is_a_recipe_that_can_be_read() -> None:
    example = re.findall(r"```toml\n(.*?)```", PAGE, re.S)[0]
    names = [parse_options(table)[0].name for table in tomllib.loads(example)["rewrite"]]
    assert names == ["low-rank-heads", "affine-mlp"]
