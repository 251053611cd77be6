"""What README.md and docs say is there, and what README.md says was measured is in the results."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks" / "results"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def variants(document: Any) -> Iterator[dict[str, Any]]:
    """Every measured model of a result file, however deep."""
    if isinstance(document, dict):
        if {"bytes", "metric", "latency_ms"} <= document.keys():
            yield document
        document = list(document.values())
    for one in document if isinstance(document, list) else []:
        yield from variants(one)


def peers() -> Iterator[dict[str, Any]]:
    """The files of the ViT that were scored on one machine and timed on another."""
    score, time = (json.loads((RESULTS / f"peers-vit-{verb}.json").read_text())[verb] for verb in ("score", "time"))
    for name, timed in time["files"].items():
        scored = score["files"][name]
        yield {"bytes": scored["bytes"], "metric": 100 * scored["top1"], "latency_ms": timed["median_ms"]}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("row", [line for line in README.splitlines() if " MB |" in line])
def test_a_row_of_the_readme_is_a_measured_model(row: str) -> None:
    """Its size, score and latency are those of one model in a result that the README or its page of speed links."""
    names = set(re.findall(r"benchmarks/results/[\w.-]+\.json", README))
    results = [json.loads((ROOT / name).read_text(encoding="utf-8")) for name in names]
    told = re.findall(r"\| (\d+\.\d\d) MB \| (\d+\.\d\d) \|.*\| (\d+\.\d\d) ms", row)
    measured = {
        (f"{one['bytes'] / 1e6:.2f}", f"{one['metric']:.2f}", f"{one['latency_ms']:.2f}")
        for one in (*variants(results), *peers())
        if one["metric"] is not None and one["latency_ms"] is not None
    }
    assert len(told) == 1 and told[0] in measured


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    listed = re.findall(r"^ +- (?:\w+: )?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M)
    pages = [str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")]
    assert sorted(listed) == sorted(pages)
