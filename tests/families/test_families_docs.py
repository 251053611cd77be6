"""The page on models lists what can be read."""

from __future__ import annotations

import re
from pathlib import Path

from compress import zoo
from compress.families import known_types
from compress.tasks import read_checkpoint

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "models.md").read_text(encoding="utf-8")


def test_the_table_has_each_model_type() -> None:
    table = PAGE.partition("| `model_type` |")[2].partition("\n\n")[0]
    firsts = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    assert sorted(name for first in firsts for name in re.findall(r"`([\w-]+)`", first)) == known_types()


def test_the_zoo_is_listed_with_the_parameters_of_what_is_in_the_package() -> None:
    rows = dict(re.findall(r"^\| `zoo:([\w-]+)` \| ([\d,]+) \|", PAGE, re.M))
    assert sorted(rows) == sorted(zoo.DATA)
    for name, count in rows.items():
        if (zoo.FOLDER / name / "model.safetensors").is_file():
            model = read_checkpoint(zoo.locate(f"zoo:{name}"), {})
            assert f"{model.num_parameters():,}" == count
