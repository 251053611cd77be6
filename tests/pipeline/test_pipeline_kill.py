"""Runs that are killed, and runs side by side."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from compress.pipeline import Cache, Graph, Runner

from .toys import TOY_RUN, snapshot, stage, walk, walk_graph

STEPS, PAUSE = 25, 0.008
Tallied = Callable[[], list[str]]


def start(root: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([*TOY_RUN, str(root), str(STEPS), str(PAUSE)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_ten_kills_at_random_moments_leave_the_same_cache_as_none(tmp_path: Path, tallied: Tallied) -> None:
    rng = random.Random(os.environ.get("TOY_SEED"))
    killed_running = 0
    for _ in range(10):
        process = start(tmp_path / "killed")
        time.sleep(rng.uniform(0.0, 0.2))
        killed_running += process.poll() is None
        process.kill()
        process.communicate()
    assert killed_running >= 3
    last = start(tmp_path / "killed")
    last.communicate()
    assert last.returncode == 0
    taken = Counter(tallied())
    # Finished stages are not run again, and the running one goes on at its checkpoint: a kill costs one step at most.
    assert set(taken) == {stage.name for stage in walk_graph(STEPS, PAUSE).stages}
    assert min(taken.values()) >= STEPS
    assert taken.total() <= 5 * STEPS + killed_running
    Runner(walk_graph(STEPS, PAUSE), Cache(tmp_path / "whole")).run()
    assert snapshot(tmp_path / "killed") == snapshot(tmp_path / "whole")


def run_and_die_at(cache: Cache, graph: Graph, moment: int) -> bool:
    """Run in a child that is killed at its n-th file operation; whether it lived that long."""
    child = os.fork()
    if child == 0:
        seen = 0

        def hook(event: str, _: object) -> None:
            nonlocal seen
            if event.startswith(("os.", "open", "shutil.", "fcntl.", "tempfile.")) and event != "os.kill":
                seen += 1
                if seen == moment:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        Runner(graph, cache).run()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0
    return os.WIFSIGNALED(status)


def test_a_kill_at_any_file_operation_leaves_the_same_cache_as_none(tmp_path: Path) -> None:
    options = {"steps": 2, "pause": 0}
    graph = Graph([stage("a", walk, options=options), stage("b", walk, {"x": "a"}, options=options)])
    Runner(graph, Cache(tmp_path / "whole")).run()
    whole = snapshot(tmp_path / "whole")
    moment = 1
    while run_and_die_at(cache := Cache(tmp_path / str(moment)), graph, moment):
        Runner(graph, cache).run()
        assert snapshot(cache.root) == whole, moment
        moment += 1
    assert moment > 40
    assert snapshot(cache.root) == whole


def test_a_kill_while_a_corrupt_entry_is_replaced_leaves_the_same_cache_as_none(tmp_path: Path) -> None:
    graph = Graph([stage("a")])
    cache = Cache(tmp_path / "cache")
    made = Runner(graph, cache).run()
    whole = snapshot(cache.root)
    moment = 1
    while True:
        (made["a"].path / "text.txt").write_text("corrupt")
        if not run_and_die_at(cache, graph, moment):
            break
        Runner(graph, cache).run()
        assert snapshot(cache.root) == whole, moment
        moment += 1
    assert moment > 20
    assert snapshot(cache.root) == whole


def test_two_runs_at_once_share_the_work(tmp_path: Path, tallied: Tallied) -> None:
    both = [start(tmp_path / "shared") for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert Counter(tallied()) == dict.fromkeys((s.name for s in walk_graph(STEPS, PAUSE).stages), STEPS)
    assert "waiting for another run" in "".join(said)
    Runner(walk_graph(STEPS, PAUSE), Cache(tmp_path / "whole")).run()
    assert snapshot(tmp_path / "shared") == snapshot(tmp_path / "whole")


def test_a_run_goes_on_when_the_run_it_waits_for_is_killed(tmp_path: Path, tallied: Tallied) -> None:
    first = start(tmp_path / "shared")
    time.sleep(0.05)
    second = start(tmp_path / "shared")
    time.sleep(0.05)
    first.kill()
    first.communicate()
    second.communicate()
    assert second.returncode == 0
    assert Counter(tallied()).total() <= 5 * STEPS + 1
