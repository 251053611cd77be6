"""The terminal view: a list of stages with their state, and a bar for the one that runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from compress.pipeline.events import (
    CacheCorrupt,
    Event,
    Logged,
    RunFinished,
    RunStarted,
    Sink,
    StageCached,
    StageFailed,
    StageFinished,
    StageProgress,
    StageStarted,
)
from compress.pipeline.pace import Pace, duration
from compress.pipeline.plain import PlainView, QuietView, line_of
from targets.errors import one_line

_MARKS = {"waits": "·", "runs": "▶", "cached": "=", "done": "✓", "failed": "✗"}
_ASCII_MARKS = {"waits": ".", "runs": ">", "cached": "=", "done": "+", "failed": "x"}
_STYLES = {"waits": "dim", "runs": "bold cyan", "cached": "green", "done": "green", "failed": "bold red"}
_OTHER_LINES = 3  # beside the list: the bar, and a line above and below


def view(stream: TextIO, quiet: bool = False) -> Sink:
    """The view that suits `stream`: live on a terminal, plain lines elsewhere, warnings only when quiet."""
    if quiet:
        return QuietView(stream)
    console = Console(file=stream)
    return LiveView(console) if console.is_terminal and not console.is_dumb_terminal else PlainView(stream)


@dataclass
class _Row:
    does: str
    state: str = "waits"
    remark: str = ""


class LiveView:
    """A sink that keeps a picture of the run at the bottom of a terminal, with messages above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rows: dict[str, _Row] = {}
        self._running = ""
        self._pace = Pace()
        self._bar = ProgressBar(total=None, width=30)
        self._live: Live | None = None

    def __call__(self, event: Event) -> None:
        match event:
            case RunStarted(stages=stages):
                self._rows = {name: _Row(does) for name, does in stages.items()}
                self._live = Live(get_renderable=self._picture, console=self._console)
                self._live.start()
            case StageStarted(stage=stage, resumed=resumed):
                self._running, self._pace = stage, Pace()
                self._mark(stage, "runs", "resumed" if resumed else "")
            case StageProgress():
                self._pace.update(event)
            case StageCached(stage=stage):
                self._mark(stage, "cached", "cached")
            case StageFinished(stage=stage, seconds=seconds):
                self._end(stage, "done", duration(seconds))
            case StageFailed(stage=stage, error=error):
                self._end(stage, "failed", one_line(error))
            case CacheCorrupt():
                self._console.print(Text(line_of(event), style="yellow"))
            case Logged(level=level):
                self._console.print(Text(line_of(event), style="yellow" if level == "warning" else ""))
            case RunFinished():
                self._stop()
                self._console.print(Text(line_of(event), style="bold"))

    def _mark(self, stage: str, state: str, remark: str) -> None:
        self._rows[stage].state, self._rows[stage].remark = state, remark

    def _end(self, stage: str, state: str, remark: str) -> None:
        self._running = ""
        self._mark(stage, state, remark)

    def _stop(self) -> None:
        live, self._live = self._live, None  # the last picture, drawn by stop, shows every stage
        if live is not None:
            live.stop()

    def _picture(self) -> RenderableType:
        marks = _ASCII_MARKS if self._console.options.ascii_only else _MARKS
        table = Table.grid(padding=(0, 2))
        for _ in range(2):
            table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis")
        for name in self._shown():
            row = self._rows[name]
            detail = Text(row.remark or row.does, style="red" if row.state == "failed" else "dim")
            table.add_row(Text(f"{marks[row.state]} {name}", style=_STYLES[row.state]), detail)
        return Group(table, self._activity()) if self._running else table

    def _shown(self) -> list[str]:
        """The names that fit on the screen while the run goes on, around the stage that runs; all of them after."""
        names = list(self._rows)
        room = max(1, self._console.height - _OTHER_LINES)
        if self._live is None or len(names) <= room:
            return names
        here = names.index(self._running) if self._running else 0
        first = min(max(0, here - room // 2), len(names) - room)
        return names[first : first + room]

    def _activity(self) -> RenderableType:
        """Bar, ETA, note and numbers of the running stage; a moving bar until the stage reports."""
        progress = self._pace.last
        if progress is not None and progress.total > 0:
            self._bar.update(progress.done, progress.total)
        else:
            self._bar.total = None
        line = Table.grid(padding=(0, 2))
        line.add_column(width=30)
        line.add_column(no_wrap=True, overflow="ellipsis")
        line.add_row(self._bar, self._pace.describe())
        return line
