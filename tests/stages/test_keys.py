"""The keys of stages cover the code that they run (see conftest.py, which watches every run of this folder)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from sly import Answer, sly

import targets
from compress.pipeline import Cache, Graph, Runner, Stage
from compress.pipeline.key import Keymaker
from compress.recipe import parse
from compress.stages.graph import Job, build_graph

ROOT = Path(__file__).parents[2]
#: A file -> stages whose result depends on it, and stages whose result does not.
DECIDES = {
    "compress/stages/outcome.py": ("bundle", "heal export predict"),
    "runtime/ort.py": ("verify bundle predict baseline baseline-int8 precision export timing", ""),
    "runtime/streams/chunking.py": ("verify", "heal export predict"),
    "compress/heal/objective.py": ("heal rewrite-1-low-rank-heads", ""),
    "compress/rewrites/low_rank_heads.py": ("rewrite-1-low-rank-heads export", "source calibrate heal verify"),
    "compress/verification/report/pages.py": ("report", "source calibrate heal export predict bundle"),
    "compress/verification/report/templates/report.html": ("report", "heal verify"),
    "runtime/bench.py": ("timing", "heal"),
    "compress/verification/metrics.py": ("baseline predict verify localize", ""),
}


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Stage, ...]:
    recipe = {"model": {"source": "zoo:vit-mnist"}, "rewrite": [{"use": "low-rank-heads", "rank": 8}]}
    memo = tmp_path_factory.mktemp("memo") / "digests.json"
    return build_graph(Job(parse(recipe, "test"), "test", targets.load("cpu"), 0, memo)).stages


@pytest.mark.parametrize("file", DECIDES)
def test_an_edit_changes_the_keys_of_the_stages_that_it_may_change(
    file: str, stages: tuple[Stage, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def keys() -> dict[str, str]:
        keymaker = Keymaker(stages, seed=0)
        return {stage.name: keymaker.key(stage, {}).digest for stage in stages}

    before, read, edited = keys(), Path.read_bytes, ROOT / file
    assert edited.is_file()
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + (b"\n" if path == edited else b""))
    after = keys()
    changed = {name for name in before if before[name] != after[name]}
    wanted, spared = DECIDES[file]
    assert set(wanted.split()) <= changed
    assert not changed & set(spared.split())


def test_a_stage_that_runs_code_behind_its_keys_back_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "targets.strict", raising=False)
    graph = Graph([Stage("sly", "cheats", "to be caught", {}, Answer, sly)])
    with pytest.raises(AssertionError, match=r"stage sly ran targets\.strict"):
        Runner(graph, Cache(tmp_path)).run()
