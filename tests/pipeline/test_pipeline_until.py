"""Part of a graph, and typed options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from support.toys import stage, write_text

from compress.pipeline import Cache, Graph, GraphError, Runner, StageContext
from compress.spec import Spec


class Whom(Spec):
    """Typed options."""

    name: str
    times: tuple[int, ...] = (1,)


class Forgetful(Whom):
    """Does not write down all that it knows."""

    def model_dump(self, **how: Any) -> dict[str, Any]:
        return {"name": self.name}


def greet(context: StageContext[Whom]) -> None:
    assert isinstance(context.options, Whom)
    write_text(context, context.options.name * sum(context.options.times))


def test_a_run_until_a_stage_makes_what_that_stage_needs_and_no_more(
    cache: Cache, tallied: Callable[[], list[str]]
) -> None:
    graph = Graph([stage("a"), stage("b", inputs={"x": "a"}), stage("c", inputs={"x": "b"}), stage("other")])
    assert Runner(graph, cache).run(until="b").keys() == {"a", "b"}
    assert tallied() == ["a", "b"]
    with pytest.raises(GraphError, match="no stage 'd' to run until; there are a, b, c, other"):
        Runner(graph, cache).run(until="d")


def test_a_stage_on_demand_runs_only_until_itself_or_for_one_that_needs_it(cache: Cache) -> None:
    extra = stage("extra", inputs={"x": "a"}, on_demand=True)
    assert Runner(Graph([stage("a"), extra]), cache).run().keys() == {"a"}
    assert Runner(Graph([stage("a"), extra]), cache).run(until="extra").keys() == {"a", "extra"}
    after = stage("after", inputs={"x": "extra"})
    assert Runner(Graph([stage("a"), extra, after]), cache).run().keys() == {"a", "extra", "after"}


def test_typed_options_are_handed_back_as_they_were_declared_and_decide_the_key(cache: Cache) -> None:
    greeting = stage("greet", greet, options=Whom(name="you", times=(1, 1)))
    assert Runner(Graph([greeting]), cache).run()["greet"].read() == "youyou"  # type: ignore[attr-defined]
    other = replace(greeting, options=Whom(name="me"))
    assert Runner(Graph([other]), cache).plan()[0].cached is False
    assert Runner(Graph([greeting]), cache).plan()[0].cached is True


def test_options_that_would_not_all_be_in_the_key_are_refused(cache: Cache) -> None:
    with pytest.raises(GraphError, match="stage 'greet': its options are not what they are written as"):
        Runner(Graph([stage("greet", greet, options=Forgetful(name="you", times=(2,)))]), cache).run()


def test_options_of_another_type_than_run_wants_are_refused(cache: Cache) -> None:
    with pytest.raises(GraphError, match="stage 'greet': run wants Whom as its options, not dict"):
        Runner(Graph([stage("greet", greet, options={"name": "you"})]), cache).run()
