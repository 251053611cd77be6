"""Leases between machines: with clocks that the tests turn, with holders that fall asleep, and in a store."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.holders import clashes
from support.toys import Text, short_walk, snapshot, stage, write_text

from compress.pipeline import Cache, Graph, Runner, StageContext
from compress.pipeline.events import Event, Logged
from compress.pipeline.key import Key
from compress.pipeline.lease import Lease, leased

EXPIRES = 10.0
#: What one of three workers does, and how much later it is then.
ACTS = st.lists(
    st.tuples(
        st.sampled_from(["attempt", "attempt", "beat", "release", "sleep"]),
        st.integers(0, 2),
        st.sampled_from([0.0, 1.0, 4.0]),
    ),
    max_size=60,
)


def lease(folder: Path, owner: str) -> Lease:
    return Lease(folder, owner, EXPIRES)


@settings(max_examples=150, deadline=None)
@given(acts=ACTS)
def test_one_holder_at_most_and_none_that_beats_is_replaced(acts: list[tuple[str, int, float]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        clocks = [0.0, 1000.0, -5.0]  # of three machines: only their pace is alike
        claims = [lease(Path(name, "lease"), f"worker {number}") for number in range(3)]
        holder, beaten = None, 0.0
        now = 0.0
        for act, number, later in acts:
            now += later
            claim, held = claims[number], holder == number
            if act == "attempt" and not held and claim.attempt(now + clocks[number]):
                assert holder is None or now - beaten >= EXPIRES, "taken from one whose heart beats"
                holder, beaten = number, now
            elif act == "beat" and held:
                assert claim.beat(), "a holder that nobody replaced goes on"
                beaten = now
            elif act == "release" and held:
                claim.release()
                claims[number], holder = lease(Path(name, "lease"), f"worker {number}"), None
            elif act == "beat" and claim._number:
                assert not claim.beat(), "one that was replaced learns of it"
                claims[number] = lease(Path(name, "lease"), f"worker {number}")
            assert sum(one._number > 0 and not one.lost() for one in claims) == (holder is not None)


@given(beats=st.integers(0, 5), late=st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_a_lease_whose_holder_stops_is_taken_within_its_time(beats: int, late: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        first, second = (lease(Path(name, "lease"), owner) for owner in ("first", "second"))
        assert first.attempt(0)
        for number in range(beats):
            assert first.beat()
            assert not second.attempt(4.0 * number + late)
        stopped = 4.0 * max(0, beats - 1) + late
        assert not second.attempt(stopped)
        assert not second.attempt(stopped + EXPIRES - 0.1)
        assert second.attempt(stopped + EXPIRES)
        assert first.lost() and not first.beat()


def test_a_lease_of_a_dead_process_of_this_machine_is_free_at_once(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from compress.pipeline.lease import Lease;"
        "print(Lease(Path(sys.argv[1])).attempt(0), flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "lease")], capture_output=True, text=True)
    assert done.stdout == "True\n" and done.returncode == -9
    assert Lease(tmp_path / "lease").attempt(0)
    assert not Lease(tmp_path / "lease").attempt(0), "this process lives"


def test_of_another_machine_nothing_is_known(tmp_path: Path) -> None:
    other = json.dumps({"place": "edge-7 boot 1", "pid": 1, "started": "0"})
    assert lease(tmp_path / "lease", other).attempt(0)
    assert not lease(tmp_path / "lease", "me").attempt(0)


def test_one_holder_at_a_time_among_threads(tmp_path: Path) -> None:
    assert clashes(lambda: leased(tmp_path / "lease", lambda: None), threads=3, times=3) == []
    assert len(list((tmp_path / "lease").iterdir())) == 1


@pytest.fixture
def shared(cache: Cache) -> Cache:
    cache.share()
    return cache


def test_a_shared_store_holds_what_any_store_holds(shared: Cache, tmp_path: Path) -> None:
    own = Cache(tmp_path / "own")
    for one in (shared, own):
        Runner(short_walk(), one).run()
    assert snapshot(shared.root / "a") == snapshot(own.root / "a")
    assert not (shared.root / ".locks").exists()
    assert not list((shared.root / ".tmp").iterdir()) and not list((shared.root / ".work").iterdir())


def test_checkpoints_go_to_who_takes_over_and_the_sleeper_finds_nothing(shared: Cache) -> None:
    key = Key.of("toy", {"seed": 0})
    folder, work = shared.begin(key, "@asleep")
    (work / "step").write_text("3")
    (folder / "half").write_text("half")
    again, taken = shared.begin(key, "@awake")
    assert (taken / "step").read_text() == "3"
    assert not work.exists() and not folder.exists()
    (again / "text.txt").write_text("whole")
    made = shared.put(key, Text, "@awake")
    with pytest.raises(FileNotFoundError):
        (work / "step").write_text("4")
    late, _ = shared.begin(key, "@late")
    (late / "text.txt").write_text("whole")
    assert shared.put(key, Text, "@late") == made == shared.get(key, Text)


def test_a_holder_that_overslept_takes_what_the_other_made(shared: Cache, events: list[Event]) -> None:
    calls = list[str]()

    def run(context: StageContext) -> None:
        calls.append(context.work.name)
        if len(calls) > 1:
            write_text(context, "made")
            return
        (name,) = (path.name for path in (shared.root / ".leases").iterdir())
        other = Lease(shared.root / ".leases" / name, expires=0.0)
        assert other.attempt(0)
        context.work.rename(context.work.with_name(f"{name}{other.mark}"))
        other.release()
        (context.work / "step").write_text("too late")

    made = Runner(Graph([stage("sleeper", run)]), shared, [events.append]).run()["sleeper"]
    assert isinstance(made, Text) and made.read() == "made"
    assert len(calls) == 2
    assert any(isinstance(event, Logged) and "another machine took this over" in event.message for event in events)
