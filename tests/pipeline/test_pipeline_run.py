"""Running graphs: what runs, what does not, and what is left after a failure."""

from __future__ import annotations

import copy
import random
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.toys import Text, chain, combine, count_letters, snapshot, stage, write_text

from compress.pipeline import Cache, Graph, Runner, Stage, StageContext
from compress.pipeline.events import (
    CacheCorrupt,
    Event,
    Level,
    Logged,
    RunFinished,
    RunStarted,
    StageCached,
    StageFailed,
    StageFinished,
    StageProgress,
    StageStarted,
)
from targets.errors import GateFailed

Tallied = Callable[[], list[str]]


def test_a_second_run_does_no_work(cache: Cache, tallied: Tallied, events: list[Event]) -> None:
    first = Runner(chain(), cache).run()
    before = snapshot(cache.root)
    second = Runner(chain(), cache, [events.append]).run()
    assert tallied() == ["a", "b", "count"]
    assert second == first
    assert snapshot(cache.root) == before
    assert [event for event in events if isinstance(event, StageCached)] == [
        StageCached("a"),
        StageCached("b"),
        StageCached("count"),
    ]
    assert first["count"].read() == len("b(a())")  # type: ignore[attr-defined]


def test_only_what_depends_on_a_change_runs_again(cache: Cache, tallied: Tallied) -> None:
    def graph(label: str) -> Graph:
        return Graph(
            [
                stage("a"),
                stage("b", inputs={"x": "a"}, options={"label": label}),
                stage("c", inputs={"x": "a"}),
                stage("d", inputs={"x": "b", "y": "c"}),
            ]
        )

    Runner(graph("b"), cache).run()
    Runner(graph("B"), cache).run()
    assert tallied() == ["a", "b", "c", "d", "B", "d"]
    Runner(graph("b"), cache).run()
    assert len(tallied()) == 6


def test_an_upstream_change_with_an_identical_result_stops_there(cache: Cache, tallied: Tallied) -> None:
    def graph(comment: str) -> Graph:
        first, *rest = chain().stages
        return Graph([replace(first, options={"label": "a", "comment": comment}), *rest])

    Runner(graph("one"), cache).run()
    Runner(graph("two"), cache).run()
    assert tallied() == ["a", "b", "count", "a"]


def test_another_seed_runs_everything_again(cache: Cache, tallied: Tallied) -> None:
    Runner(chain(), cache, seed=0).run()
    Runner(chain(), cache, seed=1).run()
    assert len(tallied()) == 6


def test_a_moved_stage_is_not_run_again(cache: Cache, tallied: Tallied) -> None:
    options = {"label": "x"}
    Runner(Graph([stage("rewrite-1-x", options=options)]), cache).run()
    Runner(Graph([stage("rewrite-2-x", options=options)]), cache).run()
    assert tallied() == ["x"]


def test_a_stage_is_handed_its_options_seed_and_name(cache: Cache) -> None:
    seen: dict[str, Any] = {}

    def look(context: StageContext) -> None:
        seen.update(seed=context.seed, stage=context.stage, options=copy.deepcopy(context.options))
        context.options["list"].append(3)
        assert not list(context.folder.iterdir())
        write_text(context, "x")

    looking = stage("look", look, options={"list": [1, 2]})
    Runner(Graph([looking]), cache, seed=7).run()
    assert seen == {"seed": 7, "stage": "look", "options": {"list": [1, 2]}}
    assert looking.options == {"list": [1, 2]}


def test_every_step_is_told_in_order(cache: Cache, events: list[Event]) -> None:
    def talk(context: StageContext) -> None:
        context.progress(1, 2, "half", loss=0.5)
        context.log("hello")
        context.warn("careful")
        write_text(context, "x")

    Runner(Graph([stage("talk", talk)]), cache, [events.append]).run()
    assert events[:-2] == [
        RunStarted({"talk": "does talk"}),
        StageStarted("talk", resumed=False),
        StageProgress("talk", 1, 2, "half", {"loss": 0.5}),
        Logged("talk", Level.INFO, "hello"),
        Logged("talk", Level.WARNING, "careful"),
    ]
    finished, ended = events[-2:]
    assert isinstance(finished, StageFinished)
    assert finished.stage == "talk"
    assert isinstance(ended, RunFinished)
    assert (ended.ok, ended.ran, ended.cached) == (True, 1, 0)


def test_a_plan_says_what_a_run_does_then(cache: Cache, tallied: Tallied) -> None:
    rows = Runner(chain(), cache).plan()
    assert [(row.name, row.cached) for row in rows] == [("a", False), ("b", False), ("count", False)]
    assert rows[0].key is not None
    assert [row.key for row in rows[1:]] == [None, None]
    assert tallied() == []
    assert not cache.root.exists()
    Runner(chain(), cache).run()
    rows = Runner(chain(), cache).plan()
    assert all(row.cached for row in rows)
    assert all(row.key is not None and any(cache.root.rglob(row.key)) for row in rows)
    assert (rows[0].does, rows[0].why) == ("does a", "toy")


class Boom(Exception):
    pass


@pytest.mark.parametrize(
    "error",
    [Boom("no"), KeyboardInterrupt(), SystemExit(1), GateFailed("too bad"), MemoryError(), OSError(5, "I/O error")],
)
def test_a_failure_leaves_nothing_half_written_and_passes_as_it_is(
    error: BaseException, cache: Cache, tallied: Tallied, events: list[Event]
) -> None:
    fails = True

    def perhaps(context: StageContext, text: Text) -> None:
        (context.work / "checkpoint").write_text("kept")
        (context.folder / "half.txt").write_text("half")
        if fails:
            raise error
        write_text(context, "whole")

    graph = Graph([stage("a"), stage("b", perhaps, {"text": "a"}), stage("c", inputs={"x": "b"})])
    with pytest.raises(type(error)) as caught:
        Runner(graph, cache, [events.append]).run()
    assert caught.value is error
    assert [type(event) for event in events[-2:]] == [StageFailed, RunFinished]
    assert events[-1].ok is False  # type: ignore[attr-defined]
    assert tallied() == ["a"]
    assert [name for name in snapshot(cache.root) if name.startswith("b")] == []
    assert list((cache.root / ".tmp").iterdir()) == []
    fails = False
    events.clear()
    made = Runner(graph, cache, [events.append]).run()
    assert StageStarted("b", resumed=True) in events
    assert set(snapshot(made["b"].path)) == {"half.txt", "text.txt"}
    assert list((cache.root / ".work").iterdir()) == []


def test_a_failed_stage_shows_one_line_of_its_error(cache: Cache, events: list[Event]) -> None:
    def fail(context: StageContext) -> None:
        raise ValueError("first\nsecond")

    with pytest.raises(ValueError, match="second"):
        Runner(Graph([stage("a", fail)]), cache, [events.append]).run()
    assert StageFailed("a", "ValueError: first") in events


def test_a_stage_that_the_user_stops_is_interrupted(cache: Cache, events: list[Event]) -> None:
    def stop(context: StageContext) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Runner(Graph([stage("a", stop)]), cache, [events.append]).run()
    assert StageFailed("a", "interrupted") in events


def test_a_corrupt_file_is_reported_and_made_again(cache: Cache, tallied: Tallied, events: list[Event]) -> None:
    rng = random.Random(1)
    made = Runner(chain(), cache).run()
    good = snapshot(cache.root)
    for _ in range(12):
        victim = cache.root / rng.choice(sorted(good.keys() - {"scans.json"}))
        data = bytearray(victim.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        victim.write_bytes(data)
        events.clear()
        before = len(tallied())
        planned = [row.name for row in Runner(chain(), cache).plan() if not row.cached]
        assert Runner(chain(), cache, [events.append]).run() == made
        [corrupt] = [event for event in events if isinstance(event, CacheCorrupt)]
        assert victim.is_relative_to(corrupt.path)
        assert corrupt.stage == planned[0]
        assert len(tallied()) == before + 1
        assert snapshot(cache.root) == good


def test_two_stages_of_the_same_making_share_one_result(cache: Cache, tallied: Tallied) -> None:
    options = {"label": "same"}
    made = Runner(Graph([stage("x-1", options=options), stage("x-2", options=options)]), cache).run()
    assert made["x-1"] == made["x-2"]
    assert tallied() == ["same"]


@st.composite
def graphs(draw: st.DrawFn) -> list[Stage]:
    """Stages of a random directed acyclic graph, in random order."""
    size = draw(st.integers(1, 9))
    stages = []
    for index in range(size):
        makers = draw(st.lists(st.integers(0, index - 1), max_size=3)) if index else []
        inputs = {f"p{number}": f"s{maker}" for number, maker in enumerate(makers)}
        stages.append(stage(f"s{index}", inputs=inputs, options={"label": draw(st.sampled_from("abc"))}))
    return draw(st.permutations(stages))


def evaluate(stages: dict[str, Stage], name: str) -> str:
    """What a stage's text should be, by plain recursion."""
    stage = stages[name]
    return f"{stage.options['label']}({','.join(evaluate(stages, stage.inputs[p]) for p in sorted(stage.inputs))})"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stages=graphs())
def test_random_graphs_run_in_order_and_equal_plain_recursion(stages: list[Stage], memory: Path) -> None:
    cache, events = Cache(Path(tempfile.mkdtemp(dir=memory))), list[Event]()
    made = Runner(Graph(stages), cache, [events.append]).run()
    by_name = {stage.name: stage for stage in stages}
    assert {name: artifact.read() for name, artifact in made.items()} == {  # type: ignore[attr-defined]
        name: evaluate(by_name, name) for name in by_name
    }
    order = [event.stage for event in events if isinstance(event, StageStarted | StageCached)]
    assert sorted(order) == sorted(by_name)
    for name in order:
        assert all(order.index(maker) < order.index(name) for maker in by_name[name].inputs.values())
    assert all(row.cached for row in Runner(Graph(stages), cache).plan())


def test_a_context_can_be_made_by_hand_to_test_a_stage(tmp_path: Path) -> None:
    context = StageContext(tmp_path, tmp_path, options={"label": "x"})
    combine(context)
    context.progress(1, 2)
    count_letters(context, Text.of(tmp_path))
    assert (tmp_path / "number.txt").read_text() == "3"
