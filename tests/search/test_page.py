"""The page and the JSON file of a search say what was predicted, healed, gated and given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import targets
from compress.recipe import parse
from compress.search.choices import Choice
from compress.search.front import Budget, Candidate
from compress.search.gating import Gated, nearest
from compress.search.limits import Limits
from compress.search.page import Findings, write_page
from compress.search.rungs import Scored
from compress.stages.graph import Job

WHOLE = Candidate((), 0.0, 2.0, 900.0)
PRUNED = Candidate(
    tuple(Choice(use="prune-neurons", options={"keep": 0.5}, layer=layer) for layer in (0, 1, 3)), 0.2, 1.0, 500.0
)


def gated(candidate: Candidate, verdict: str, missed: tuple[str, ...] = ()) -> Gated:
    recipe = parse({"model": {"source": "zoo:vit-mnist"}, "gate": {"confidence": 0.975}}, "test")
    job = Job(recipe, "recipe", targets.load("cpu"), 0, Path("memo"))
    return Gated(candidate, job, {}, verdict, "<why> & how", candidate.ms, 3.0, 500, None, missed)


def findings(*every: Gated) -> Findings:
    healed = [Scored(one, 20, 0.99, one.drift, (one.drift,), 500) for one in (PRUNED, WHOLE)]
    return Findings(
        model="zoo:<m>",
        target="cpu",
        machine="a CPU",
        max_drop=1.0,
        limits=Limits(file_bytes=600),
        original_ms=3.0,
        predicted=[PRUNED, WHOLE],
        healed=healed,
        gated=every,
        given=nearest(every),
        timing_error=0.04,
    )


@pytest.fixture
def written(tmp_path: Path) -> tuple[dict[str, Any], str]:
    write_page(findings(gated(PRUNED, "pass"), gated(WHOLE, "pass", ("file 0.9 kB",))), tmp_path)
    return json.loads((tmp_path / "front.json").read_text()), (tmp_path / "front.html").read_text()


def test_the_file_has_every_candidate_with_the_tables_of_a_recipe(written: tuple[dict[str, Any], str]) -> None:
    front, _ = written
    assert [one["label"] for one in front["predicted"]] == ["prune-neurons keep 0.5 at 0-1 3", "architecture kept"]
    assert front["predicted"][0]["rewrites"][2] == {"use": "prune-neurons", "keep": 0.5, "layers": [3]}
    assert [(one["given"], one["missed"]) for one in front["gated"]] == [(True, []), (False, ["file 0.9 kB"])]
    assert front["limits"]["file_bytes"] == 600 and front["timing_error"] == 0.04


def test_the_page_needs_nothing_else_and_shows_texts_as_texts(written: tuple[dict[str, Any], str]) -> None:
    _, page = written
    assert "&lt;why&gt; &amp; how" in page and "zoo:&lt;m&gt;" in page and "<why>" not in page
    assert page.count("<svg") >= 2 and "prune-neurons keep 0.5 at 0-1 3" in page
    assert "src=" not in page and "url(" not in page


def test_what_comes_nearest_passes_its_gate_before_it_keeps_limits() -> None:
    failed, missed = gated(PRUNED, "fail"), gated(WHOLE, "pass", ("file",))
    assert nearest([failed, missed]) is missed
    assert nearest([missed, gated(PRUNED, "pass")]).missed == ()


def test_a_budget_is_kept_where_both_of_its_limits_are() -> None:
    assert Budget().keeps(WHOLE) and Budget(ms=2.0, bytes=900.0).keeps(WHOLE)
    assert not Budget(ms=1.9).keeps(WHOLE) and not Budget(bytes=899.0).keeps(WHOLE)
