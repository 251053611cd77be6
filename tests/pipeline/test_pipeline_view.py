"""What the user sees."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from rich.console import Console
from support.toys import Text, chain, stage, write_text

from compress.pipeline import Cache, Graph, Runner, StageContext
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
from compress.pipeline.log import JsonLog
from compress.pipeline.pace import Pace, clock_time, duration
from compress.pipeline.plain import PlainView, QuietView
from compress.pipeline.view import LiveView, view

STORY: list[Event] = [
    RunStarted({"source": "reads the model", "heal": "distils", "export": "writes ONNX", "bundle": "packs"}),
    StageCached("source"),
    StageStarted("heal", resumed=True),
    StageProgress("heal", 200, 800, "step 200", {"loss": 0.25}),
    Logged("heal", Level.INFO, "lowered the rate"),
    StageProgress("heal", 400, 800, "step 400", {"loss": 0.125}),
    StageFinished("heal", 83.2),
    CacheCorrupt("export", "/cache/export/ab/abc", "model.onnx was changed"),
    StageStarted("export", resumed=False),
    Logged("export", Level.WARNING, "old opset"),
    StageFailed("export", "ValueError: [no] such [/op]"),
    RunFinished(ok=False, ran=1, cached=1, seconds=90.0),
]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def terminal(height: int = 25, encoding: str = "utf-8") -> tuple[Console, io.StringIO]:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding) if encoding != "utf-8" else io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100, height=height, color_system=None, _environ={})
    return console, stream  # type: ignore[return-value]


def picture_of(live: LiveView) -> list[str]:
    """The lines at the bottom of the terminal."""
    lines = live._console.render_lines(live._picture(), pad=False)
    return ["".join(segment.text for segment in line) for line in lines]


def tell(sink: LiveView | PlainView | QuietView, story: Iterable[Event]) -> None:
    for event in story:
        sink(event)


def test_a_terminal_shows_states_bar_and_messages() -> None:
    console, stream = terminal()
    live = LiveView(console)
    tell(live, STORY[:6])
    picture = "\n".join(picture_of(live))
    for part in (
        "= source",
        "cached",
        "▶ heal",
        "resumed",
        "· export",
        "writes ONNX",
        "50 %",
        "step 400",
        "loss 0.125",
        "━",
    ):
        assert part in picture
    tell(live, STORY[6:])
    shown = stream.getvalue()
    for part in ("✓ heal", "1:24", "✗ export", "ValueError: [no] such [/op]", "· bundle", "heal: lowered the rate"):
        assert part in shown
    assert "export: warning: old opset" in shown
    assert "model.onnx was changed" in shown
    assert "stopped: 1 run, 1 cached, 1:30" in shown
    assert shown.endswith("\n")


def test_a_terminal_without_unicode_is_served() -> None:
    console, _ = terminal(encoding="ascii")
    tell(LiveView(console), STORY)
    console.file.flush()
    console.file.seek(0)
    shown = console.file.read()
    assert "+ heal" in shown
    assert "x export" in shown


def test_a_list_longer_than_the_terminal_shows_the_part_that_runs_and_all_at_the_end() -> None:
    console, stream = terminal(height=12)
    live, names = LiveView(console), [f"s{index:02}" for index in range(40)]
    live(RunStarted(dict.fromkeys(names, "works")))
    for name in names[:25]:
        live(StageCached(name))
    live(StageStarted("s25", resumed=False))
    lines = picture_of(live)
    assert len(lines) <= 11
    assert any("▶ s25" in line for line in lines)
    live(RunFinished(ok=False, ran=0, cached=25, seconds=1.0))
    assert all(f" {name} " in stream.getvalue() for name in names)


def test_a_pipe_gets_one_line_for_each_start_and_end_and_progress_every_ten_seconds() -> None:
    stream, clock = io.StringIO(), Clock()
    plain = PlainView(stream, clock)
    tell(plain, [RunStarted({"heal": "distils"}), StageStarted("heal", resumed=False)])
    for step in range(1, 101):
        clock.now += 0.25
        plain(StageProgress("heal", step, 100, f"step {step}", {"loss": 0.5}))
    plain(StageFinished("heal", 25.0))
    plain(RunFinished(ok=True, ran=1, cached=0, seconds=25.0))
    assert stream.getvalue().splitlines() == [
        "stages: heal",
        "heal: started",
        "heal: 40 %  ETA 0:15  step 40  loss 0.5",
        "heal: 80 %  ETA 0:05  step 80  loss 0.5",
        "heal: done in 25.0 s",
        "finished: 1 run, 0 cached, 25.0 s",
    ]


def test_an_error_of_a_stage_is_no_longer_than_one_of_a_command() -> None:
    stream = io.StringIO()
    tell(PlainView(stream), [StageFailed("source", "x" * 5000 + "; fetch it again")])
    assert len(stream.getvalue()) <= 301 and stream.getvalue().endswith("; fetch it again\n")


def test_quiet_shows_only_what_needs_attention() -> None:
    stream = io.StringIO()
    tell(QuietView(stream), STORY)
    assert stream.getvalue().splitlines() == [
        "export: warning: the cache entry /cache/export/ab/abc is corrupt (model.onnx was changed); making it again",
        "export: warning: old opset",
    ]


def test_the_view_suits_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(view(io.StringIO()), PlainView)
    assert isinstance(view(Terminal()), LiveView)
    assert isinstance(view(Terminal(), quiet=True), QuietView)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(view(Terminal()), PlainView)


def test_the_live_view_follows_a_real_run_and_frees_the_terminal_after_a_failure(cache: Cache) -> None:
    def fail(context: StageContext, text: Text) -> None:
        context.progress(3, 0, "counting")
        raise ValueError("broken")

    console, stream = terminal()
    Runner(chain(), cache, [LiveView(console)]).run()
    with pytest.raises(ValueError, match="broken"):
        Runner(Graph([stage("a"), stage("b", fail, {"text": "a"})]), cache, [LiveView(console)]).run()
    shown = stream.getvalue()
    assert "finished: 3 run, 0 cached" in shown
    assert "✗ b" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 2  # the cursor is hidden and shown again


def test_the_pace_of_a_resumed_stage_counts_from_its_checkpoint() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.update(StageProgress("heal", 600, 800))
    assert pace.remaining() is None
    clock.now = 10.0
    pace.update(StageProgress("heal", 700, 800))
    assert pace.remaining() == pytest.approx(10.0)
    pace.update(StageProgress("heal", 700, 0))
    assert pace.remaining() is None


def test_times_are_written_for_people() -> None:
    assert [clock_time(seconds) for seconds in (6.2, 750, 11100)] == ["0:07", "12:30", "3:05:00"]
    assert [duration(seconds) for seconds in (0.25, 59.94, 59.96, 61)] == ["0.2 s", "59.9 s", "1:00", "1:01"]


def test_the_log_has_one_json_object_a_line(cache: Cache, tmp_path: Path) -> None:
    def diverge(context: StageContext) -> None:
        context.progress(1, 2, "ü", loss=float("nan"), rate=0.5)
        write_text(context, "x")

    path = tmp_path / "logs" / "run.jsonl"
    log = JsonLog(path)
    for _ in range(2):
        Runner(Graph([stage("a", diverge)]), cache, [log]).run()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
    assert [row["event"] for row in rows] == [
        "RunStarted",
        "StageStarted",
        "StageProgress",
        "StageFinished",
        "RunFinished",
        "RunStarted",
        "StageCached",
        "RunFinished",
    ]
    assert rows[2]["numbers"] == {"loss": "nan", "rate": 0.5}
    assert rows[2]["note"] == "ü"
    assert rows[0]["stages"] == {"a": "does a"}
    assert all(row["time"].endswith("+00:00") for row in rows)
