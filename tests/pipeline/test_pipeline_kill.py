"""Runs that are killed, and runs side by side."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from support.toys import TOY_KILL, TOY_RUN, short_walk, snapshot, walk_graph

from compress.pipeline import Cache, Runner

STEPS, PAUSE = 25, 0.008
Tallied = Callable[[], list[str]]


def start(root: Path) -> subprocess.Popen[str]:
    command = [*TOY_RUN, str(root), str(STEPS), str(PAUSE)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def await_ready(process: subprocess.Popen[str]) -> None:
    """Until its run begins."""
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def test_ten_kills_at_random_moments_leave_the_same_cache_as_none(tmp_path: Path, tallied: Tallied) -> None:
    rng = random.Random(os.environ.get("TOY_SEED"))
    killed_running = 0
    for _ in range(10):
        process = start(tmp_path / "killed")
        await_ready(process)
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


@pytest.mark.parametrize("start", ["empty", "corrupt"])
def test_a_kill_at_any_file_operation_leaves_the_same_cache_as_none(start: str, memory: Path) -> None:
    begin = Cache(memory / "start")
    begin.root.mkdir()
    whole = Cache(memory / "whole")
    Runner(short_walk(), whole).run()
    if start == "corrupt":
        for artifact in Runner(short_walk(), begin).run().values():
            (artifact.path / "text.txt").write_text("corrupt")
    subprocess.run([*TOY_KILL, str(memory)], check=True)
    moments = sum(path.name.isdigit() for path in memory.iterdir())
    assert moments > 100
    for moment in range(1, moments + 1):
        cache = Cache(memory / str(moment))
        Runner(short_walk(), cache).run()
        assert snapshot(cache.root) == snapshot(whole.root), moment


def test_two_runs_at_once_share_the_work(tmp_path: Path, tallied: Tallied) -> None:
    both = [start(tmp_path / "shared") for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert Counter(tallied()) == dict.fromkeys((s.name for s in walk_graph(STEPS, PAUSE).stages), STEPS)
    assert "waiting for another run" in "".join(said)
    Runner(walk_graph(STEPS, PAUSE), Cache(tmp_path / "whole")).run()
    assert snapshot(tmp_path / "shared") == snapshot(tmp_path / "whole")


def test_a_run_goes_on_when_the_run_it_waits_for_is_killed(tmp_path: Path, tallied: Tallied) -> None:
    first, second = start(tmp_path / "shared"), start(tmp_path / "shared")
    await_ready(first)
    await_ready(second)
    time.sleep(0.05)
    first.kill()
    first.communicate()
    second.communicate()
    assert second.returncode == 0
    assert Counter(tallied()).total() <= 5 * STEPS + 1
