"""A stage that says nothing for long still shows that it works."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest
from support.toys import stage, write_text

from compress.pipeline import Cache, Graph, Runner, StageContext
from compress.pipeline import heart as heart_module
from compress.pipeline.events import Event, StageFinished, StageProgress, StageWorking
from compress.pipeline.plain import PlainView


def silent(context: StageContext[Any]) -> None:
    time.sleep(0.2)
    write_text(context, "done")


def talkative(context: StageContext[Any]) -> None:
    for step in range(20):
        time.sleep(0.01)
        context.progress(step, 20)
    write_text(context, "done")


def test_a_silent_stage_is_told_to_work_on_until_it_ends(
    cache: Cache, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heart_module, "_EVERY", 0.02)
    Runner(Graph([stage("a", silent)]), cache, [events.append]).run()
    beats = [event for event in events if isinstance(event, StageWorking)]
    assert len(beats) >= 2 and beats[0].stage == "a" and beats[0].seconds < beats[-1].seconds
    ended = next(index for index, event in enumerate(events) if isinstance(event, StageFinished))
    assert not any(isinstance(event, StageWorking) for event in events[ended:])


def test_a_stage_that_reports_is_left_alone(cache: Cache, events: list[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heart_module, "_EVERY", 0.15)
    Runner(Graph([stage("a", talkative)]), cache, [events.append]).run()
    assert not any(isinstance(event, StageWorking) for event in events)


def test_a_pipe_hears_of_a_silent_stage_within_ten_seconds() -> None:
    stream, now = io.StringIO(), 0.0
    plain = PlainView(stream, lambda: now)
    plain(StageProgress("timing", 0, 1, "3 models"))
    for second in range(2, 61, 2):
        now = float(second)
        plain(StageWorking("timing", now))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "timing: 8.0 s  0 %  3 models"
    assert 6 <= len(lines) <= 8
