"""A search on a cluster of two nodes on this machine, of which one is lost in the middle."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import targets
from compress import zoo
from compress.data import preprocessing_from_hf
from compress.model import save
from compress.pipeline import Cache
from compress.recipe import load_for_model
from compress.rewrites import parse_options, run_rewrite
from compress.rewrites.calibration import Calibration
from compress.search.choices import Choice
from compress.search.effort import effort
from compress.search.front import Candidate
from compress.search.limits import Limits
from compress.search.recipe_file import to_toml
from compress.search.searcher import RECIPE, Searcher, Wish
from compress.search.workers.executor import Executor, Here, Place, Work, in_turn
from compress.search.workers.nodes import Seen, check, check_alike, look, versions
from compress.stages.graph import Job, build_graph
from compress.stages.job import Machine
from compress.tasks import read_checkpoint
from targets.errors import EnvironmentLacks, InputError, report

SETTINGS = [
    'data.source="zoo:mnist-test"',
    *("data.limit=200", "calibrate.samples=32", "calibrate.held_out=32", "heal.flip=false", "heal.mixup=false"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first two layers of vit-mnist, its head and its embedding."""
    source = zoo.locate("zoo:vit-mnist")
    whole = read_checkpoint(source, preprocessing_from_hf(source))
    nothing = Calibration(whole, lambda: iter([]), lambda text: None)
    layers = list(range(2, len(whole.structure.blocks)))
    folder = tmp_path_factory.mktemp("model")
    save(run_rewrite(*parse_options({"use": "drop-blocks", "layers": layers}), whole, nothing), folder)
    return folder


def job_of(model: Path, cache: Cache) -> Job:
    recipe = load_for_model("quick", [f'model.source="{model}"', *SETTINGS]).replace(rewrite=())
    return Job(recipe, RECIPE, targets.load("cpu"), 0, cache.root / "digests.json")


def searched(executor: Executor, job: Job) -> dict[str, Any]:
    """The steps of a search whose results do not depend on a clock: every choice is tried alone, and the one that
    drifts least heals. The trials, the recipe, and what everything is by its digest."""
    wish = Wish(job.recipe, Limits(), replace(effort(0.01), choices=1, samples=32, trial_steps=3), None)
    searcher = Searcher(replace(job, timed_on=executor.machine(Place.TIMING)), wish, executor, lambda line: None)
    trials = searcher.library().trials
    best = min((one for one in trials if not one.refused), key=lambda one: one.drift)
    candidate = Candidate((Choice.model_validate(best.choices[0]),), best.drift, 1.0, 1.0)
    made = searcher.run(Work(build_graph(searcher.job_of(candidate, 3)), "heal", Place.HEAVY))
    digests = {name: artifact.digest for name, artifact in made.items()}
    return {"trials": trials, "recipe": to_toml(searcher.recipe_of(candidate, 3), []), "digests": digests}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one core; the first is marked for timings."""
    pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        import ray
        from ray.cluster_utils import Cluster

        small = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
        found = Cluster(initialize_head=True, head_node_args={**small, "resources": {"timing": 1}})
        found.add_node(**small)
        yield found
        ray.shutdown()
        found.shutdown()


def lose_a_node(cluster: Any, cache: Path, busy: list[Path]) -> None:
    """Once both nodes try choices, take the second away."""
    (second,) = cluster.worker_nodes
    while len(found := list((cache / ".work").glob("trial-*"))) < 2:
        time.sleep(0.01)
    cluster.remove_node(second, allow_graceful=False)
    busy += [one for one in found if one.exists()]


def test_a_search_that_loses_a_node_ends_like_one_in_one_process(cluster: Any, model: Path, tmp_path: Path) -> None:
    import torch

    from compress.search.workers.cluster import Ray

    shared, own, busy = Cache(tmp_path / "shared"), Cache(tmp_path / "own"), list[Path]()
    executor = Ray(cluster.address, shared, (), 0, [model])
    assert executor.at_once == 2
    thread = threading.Thread(target=lose_a_node, args=(cluster, shared.root, busy))
    thread.start()
    found = searched(executor, job_of(model, shared))
    thread.join()
    assert len(busy) == 2, "both nodes were at work when one was lost"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as on nodes of one core
    try:
        assert found == searched(Here(own, (), 0), job_of(model, own))
    finally:
        torch.set_num_threads(threads)


def test_a_worker_that_does_not_see_a_folder_is_refused(cluster: Any, tmp_path: Path) -> None:
    from compress.search.workers.cluster import Ray

    with pytest.raises(EnvironmentLacks, match=rf"worker \S+ does not see {tmp_path}/gone; put it into a folder"):
        Ray(cluster.address, Cache(tmp_path / "cache"), (), 0, [tmp_path / "gone"])


def test_a_cluster_that_is_not_there_is_named() -> None:
    pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    from compress.search.workers.cluster import Ray

    for address in ("127.0.0.1:1", "nowhere", "127.0.0.1:port"):
        with pytest.raises(InputError, match=f"no Ray cluster answers at --cluster {address}; give HOST:PORT"):
            Ray(address, Cache(), (), 0, [])


def test_without_ray_the_extra_that_brings_it_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from compress.search.workers.cluster import Ray

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError) as told:
        Ray("auto", Cache(), (), 0, [])
    assert report(told.value) == 3
    assert capsys.readouterr().err == "error: the package ray is not installed; run: pip install 'edgepress[cluster]'\n"


def seen(**changes: Any) -> Seen:
    return replace(Seen("edge-7", versions(), Machine(4, "a processor"), True, ()), **changes)


@pytest.mark.parametrize("library", ["python", "torch", "onnxruntime", "edgepress", "code of edgepress"])
def test_a_worker_with_other_versions_is_refused_by_name(library: str) -> None:
    with pytest.raises(EnvironmentLacks, match=f"worker edge-7 has {library} 0.0, and .* is here; install the same"):
        check(seen(versions={**versions(), library: "0.0"}), seen(), Path("/cache"))


def test_a_cache_that_a_worker_does_not_see_is_named(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("written elsewhere")
    assert look(tmp_path / "token", "written elsewhere", []).sees
    assert not look(tmp_path / "token", "written here", []).sees
    assert not look(tmp_path / "none", "written here", []).sees
    with pytest.raises(
        EnvironmentLacks, match="worker edge-7 does not see the cache folder /cache; set EDGEPRESS_CACHE"
    ):
        check(seen(sees=False), seen(), Path("/cache"))


def test_machines_for_timings_are_of_one_kind() -> None:
    assert check_alike([seen(), seen(name="edge-8")]) == Machine(4, "a processor")
    other = seen(name="edge-8", machine=Machine(8, "a processor"))
    with pytest.raises(
        EnvironmentLacks, match="edge-7 is a processor with 4 cores, edge-8 is a processor with 8 cores"
    ):
        check_alike([seen(), other])


def test_the_longest_work_begins_first() -> None:
    weights = [1.0, 3.0, 2.0, 3.0]
    graph: Any = None
    assert in_turn([Work(graph, weight=weight) for weight in weights]) == [1, 3, 2, 0]
