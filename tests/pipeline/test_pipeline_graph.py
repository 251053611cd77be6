"""The whole graph is checked before anything runs."""

from __future__ import annotations

import functools
import random
import re

import pytest
from support.toys import Number, Text, combine, count_letters, stage

from compress.pipeline import Cache, Graph, GraphError, Runner, Stage
from targets.errors import InputError


def needs_context_only(context: object) -> None: ...


def says_no_type(context, x): ...  # type: ignore[no-untyped-def]


def has_an_option(context: object, x: Number | None = None) -> None: ...


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([stage("a"), stage("b"), stage("a")], "stage 'a' is there twice"),
        ([stage("a"), stage("b", inputs={"x": "z"})], "stage 'b': its input 'x' comes from 'z', which is not a stage"),
        (
            [stage("n", count_letters, {"text": "b"}, produces=Number), stage("b"), stage("c", inputs={"x": "n"})],
            "stage 'c': its input 'x' must be a Text, but 'n' makes a Number",
        ),
        (
            [stage("a"), stage("b", has_an_option, {"x": "a"})],
            "stage 'b': its input 'x' must be a Number, but 'a' makes a Text",
        ),
        ([stage("a", inputs={"x": "b"}), stage("b", inputs={"x": "a"})], "depends on itself: "),
        ([stage("a", inputs={"x": "a"})], "stage 'a' depends on itself: a -> a"),
        ([stage("a"), stage("b", says_no_type, {"x": "a"})], "stage 'b': run does not say of what type 'x' is"),
        ([stage("../a")], "stage '../a': a name is"),
        ([stage("")], "stage '': a name is"),
        ([stage("a", options={"f": object()})], "stage 'a': its options must be JSON-able"),
        ([stage("a", options={"f": float("nan")})], "stage 'a': its options must be JSON-able"),
        ([stage("a", options={"f": {1: 2}})], "stage 'a': its options must be JSON-able: the key 1"),
        ([stage("a"), stage("b", needs_context_only, {"x": "a"})], "stage 'b': run cannot be called with its inputs"),
    ],
)
def test_a_broken_graph_is_refused_by_name_before_anything_runs(
    stages: list[Stage], message: str, cache: Cache
) -> None:
    graph = Graph(stages)
    with pytest.raises(GraphError, match=re.escape(message)):
        graph.check()
    with pytest.raises(InputError, match=re.escape(message)):
        Runner(graph, cache).run()
    with pytest.raises(InputError, match=re.escape(message)):
        Runner(graph, cache).plan()
    assert not cache.root.exists()


def test_a_subclass_of_the_wanted_type_is_accepted() -> None:
    class Verse(Text):
        pass

    Graph([stage("a", produces=Verse), stage("b", inputs={"x": "a"})]).check()


def test_a_partial_is_accepted_as_run() -> None:
    Graph([stage("a"), stage("b", functools.partial(combine), {"x": "a"})]).check()


def test_the_order_keeps_the_given_order_where_it_can() -> None:
    stages = [
        stage("export", inputs={"x": "heal"}),
        stage("source"),
        stage("reference", inputs={"x": "source"}),
        stage("heal", inputs={"x": "source"}),
        stage("verify", inputs={"x": "export", "y": "reference"}),
    ]
    names = [stage.name for stage in Graph(stages).order()]
    assert names == ["source", "reference", "heal", "export", "verify"]


def test_the_order_does_not_depend_on_how_often_it_is_asked() -> None:
    stages = [stage(f"s{index}") for index in range(20)]
    stages += [stage(f"t{index}", inputs={"x": f"s{random.Random(index).randrange(20)}"}) for index in range(20)]
    random.Random(0).shuffle(stages)
    graph = Graph(stages)
    assert [s.name for s in graph.order()] == [s.name for s in Graph(list(graph.stages)).order()]


def test_a_position_number_is_not_part_of_the_kind() -> None:
    assert stage("rewrite-2-affine-mlp").kind == "rewrite-affine-mlp"
    assert stage("precision-int8").kind == "precision-int8"
    assert stage("heal-1").kind == "heal"
