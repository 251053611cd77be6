"""The lines of Python in README.md run as they stand, and the generated page is what the code says."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest

import edgepress
from edgepress.options import page

#: The first of them makes a whole run.
pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).parents[2]


def test_the_snippet_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With few samples and no change of the architecture, which is all that differs."""
    found = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    assert len(found) == 1 and len([line for line in found[0].splitlines() if line]) <= 5
    settings = {"precision.mode": "fp32", "data.limit": 120, "calibrate.samples": 32, "calibrate.held_out": 32}
    quick = partial(edgepress.compress, recipe="identity", settings=settings, max_drop=8, progress=False)
    monkeypatch.setattr(edgepress, "compress", quick)
    monkeypatch.chdir(tmp_path)
    exec(compile(found[0], "README.md", "exec"), {})
    assert (tmp_path / "out" / "bundle" / "manifest.json").is_file()


def test_the_page_of_options_is_up_to_date() -> None:
    told = (ROOT / "docs" / "reference" / "options.md").read_text(encoding="utf-8")
    assert told == page(), "run make docs"
