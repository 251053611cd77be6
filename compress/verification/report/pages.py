"""One ReportData rendered for people, as Markdown and a self-contained HTML page, and written in all formats.

Deterministic.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from compress.verification.drift import Drift, GroupDrift, MetricDrift
from compress.verification.localize import block_note, stage_note
from compress.verification.outcome import Status
from compress.verification.report import charts
from compress.verification.report.cases import Case, cases, findings
from compress.verification.report.ci import to_junit, to_sarif
from compress.verification.report_data import ReportData, Variant
from runtime.files import explain, is_special, write_atomic, write_through
from targets.errors import printable

if TYPE_CHECKING:
    import numpy as np
    from jinja2 import Environment
    from numpy.typing import NDArray

TEMPLATES = Path(__file__).parent / "templates"
PICTURE_PIXELS = 96
#: Changes in confusion smaller than this are drawn as a part of it.
FEW = 10


def to_markdown(data: ReportData) -> str:
    """Markdown for a pull request or a CI summary: verdict first."""
    return _render("report.md", data, markdown=True)


def to_html(data: ReportData) -> str:
    """One HTML page that needs nothing else: styles, charts and pictures are inside; its policy forbids requests."""
    return _render("report.html", data, markdown=False)


def write_report(data: ReportData, directory: Path) -> list[Path]:
    """Write report.json, report.md, report.html, junit.xml and report.sarif into `directory`; their paths."""
    texts = {
        "report.json": data.to_json(),
        "report.md": to_markdown(data),
        "report.html": to_html(data),
        "junit.xml": to_junit(data),
        "report.sarif": to_sarif(data),
    }
    for name, text in texts.items():
        write_atomic(directory / name, text.encode())
    return [directory / name for name in texts]


def append_summary(path: Path, markdown: str) -> None:
    """Add Markdown at the end of a file, such as the one that $GITHUB_STEP_SUMMARY names."""
    try:
        if is_special(path):
            write_through(path, markdown.encode(), append=True)
            return
        before = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise explain(error, path) from error
    write_atomic(path, before + markdown.encode())


def picture(image_HWC: NDArray[np.uint8]) -> str:
    """A small PNG, base64, for `ReportData.pictures`, from an image [H, W, 3] or [H, W] or [H, W, 1]."""
    from PIL import Image

    image = Image.fromarray(image_HWC[..., 0] if image_HWC.ndim == 3 and image_HWC.shape[2] == 1 else image_HWC)
    image.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS))
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()


def _render(template: str, data: ReportData, markdown: bool) -> str:
    return (
        environment([TEMPLATES], markdown)
        .get_template(template)
        .render(data=data, cases=cases(data), findings=findings(data), view=View(data))
    )


def environment(folders: Sequence[Path], markdown: bool) -> Environment:
    """How templates of these folders are read: strictly, without control characters, with the filters of a report."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    found = Environment(
        loader=FileSystemLoader(folders),
        autoescape=not markdown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_inert,
    )
    found.filters |= {
        "size": size_text,
        "number": number_text,
        "span": span_text,
        "threads": threads_text,
        "cell": _markdown_cell,
    }
    return found


class View:
    """What the templates need beside the data: derived rows and the geometry of the charts."""

    def __init__(self, data: ReportData) -> None:
        self.data = data
        self.metric = self._main_metric()
        self.unit = self.metric.unit if self.metric is not None else ""
        self.drop_unit = "points" if self.unit == "%" else self.unit
        self.change = "Drop" if self.metric is None or self.metric.higher_is_better else "Rise"
        self.reference = next((v for v in data.variants if v.role == "reference"), None)
        self.candidate = next((v for v in data.variants if v.role == "candidate"), None)

    @property
    def worse_by(self) -> str:
        """What a drop counts, as a sentence begins: how much lower or higher the metric became."""
        if self.metric is None or self.unit == "%":
            return f"{self.change} of accuracy in points"
        return f"How much {'lower' if self.metric.higher_is_better else 'higher'} the {self.metric.title.lower()} is"

    def _main_metric(self) -> MetricDrift | None:
        drift = self.data.drift
        if drift is None or not drift.metrics:
            return None
        return drift.metrics[0]

    def baselines(self, attribute: str) -> list[Variant]:
        """The baselines whose attribute is known."""
        return [v for v in self.data.variants if v.role == "baseline" and getattr(v, attribute) is not None]

    def gain(
        self, attribute: Literal["bytes", "latency_ms"], better: str, worse: str, than: Variant | None = None
    ) -> str | None:
        """How many times better the candidate's attribute is than the reference's (or another's), such as `3.7×
        smaller`; None where either is unknown."""
        other = than or self.reference
        gain = self.candidate.gain(attribute, other) if self.candidate and other else None
        if gain is None:
            return None
        ratio, word = (gain, better) if gain >= 1 else (1 / gain, worse)
        return "about the same" if ratio < 1.005 else f"{ratio:.3g}× {word}" if ratio < 1.1 else f"{ratio:.2g}× {word}"

    @property
    def y_limits(self) -> charts.Limits | None:
        """Between which values the main metric lies."""
        return (0.0, 100.0) if self.unit == "%" else None

    @staticmethod
    def lower_first(text: str) -> str:
        """The text as it reads within a sentence."""
        return text[:1].lower() + text[1:]

    def first_cases(self) -> list[Case]:
        """What is read first: every check that did not pass, then those over all samples."""
        every = cases(self.data)
        return [c for c in every if c.status is not Status.PASS] + [c for c in every if c.passed_overall]

    def more_cases(self) -> list[Case]:
        """The passed checks of single classes and slices."""
        return [c for c in cases(self.data) if c.status is Status.PASS and not c.passed_overall]

    @property
    def advice(self) -> str:
        """Whether to ship, in a word or two."""
        return {
            Status.PASS: "Yes, by this gate",
            Status.FAIL: "No",
            Status.ERROR: "Not known: it could not be judged",
            Status.NOT_RUN: "Not known: it was not compared",
        }[self.data.verdict]

    def lost_chart(self) -> charts.Intervals | None:
        """The first check on a drop, against its limit: what the verdict hangs on."""
        chart = self.gate_chart()
        return None if chart is None else replace(chart, rows=chart.rows[:1])

    def won(self) -> str:
        """What became better beside accuracy, against the original and against its plain quantized forms; "" if
        nothing did."""
        return self._changed("smaller", "faster")

    def paid(self) -> str:
        """What became worse beside accuracy."""
        return self._changed("larger", "slower")

    def _changed(self, *words: str) -> str:
        others = [("the original", self.reference), *((one.name, one) for one in self.baselines("bytes"))]
        found = []
        for name, other in others:
            every = (self.gain("bytes", "smaller", "larger", other), self.gain("latency_ms", "faster", "slower", other))
            gains = [gain for gain in every if gain and gain.endswith(words)]
            found += [f"{' and '.join(gains)} than {name}"] if gains else []
        return "; ".join(found)

    def not_shown(self) -> list[str]:
        """What the numbers of this report say nothing about."""
        timed = any(one.latency_ms is not None for one in self.data.variants)
        found = [f"speed and memory on {self.data.target}" if timed else "speed: nothing was timed"]
        unrun = any("no engine was run" in note or "built and not run" in note for note in self.data.notes)
        found += ["a TensorRT engine at work"] if unrun else []
        samples = self.data.drift.samples if self.data.drift is not None else 0
        return [*found, f"inputs unlike these {samples:,} samples" if samples else "predictions of any kind"]

    def gate_chart(self) -> charts.Intervals | None:
        """The checks on drops in the unit of the main metric, each against its limit."""
        drops = [check for check in self._checks() if check.bound == "max_drop" and check.low is not None]
        if self.metric is None or not drops:
            return None
        drops = [check for check in drops if check.unit == self.unit][:40]
        rows = [
            (f"{check.metric} · {check.scope}", check.low, check.value, check.high, "good" if check else "bad")
            for check in drops
        ]
        return charts.intervals(rows, [check.limit for check in drops])

    def _checks(self) -> tuple[Any, ...]:
        return () if self.data.drift is None else self.data.drift.gate.checks

    def groups(self, kind: str, most: int = 30) -> charts.Intervals | None:
        """The classes or slices, worst drop first."""
        drift = self.data.drift
        if drift is None:
            return None
        measured: list[GroupDrift] = [group for group in getattr(drift, kind) if group.drop is not None]
        worst = sorted(measured, key=lambda group: (-(group.drop or 0.0), group.name))[:most]
        rows = [(g.name, g.low, g.drop, g.high, _tone(g.low, g.high)) for g in worst]
        return charts.intervals(rows)  # type: ignore[arg-type]

    def stage_chart(self) -> charts.Intervals | None:
        """The drop after each stage that measured one."""
        rows = [
            (s.name, s.drop if s.low is None else s.low, s.drop, s.drop if s.high is None else s.high, "plain")
            for s in self.data.stages
            if s.drop is not None
        ]
        return charts.intervals(rows)

    def stage_note(self) -> str | None:
        """See `localize.stage_note`."""
        return stage_note(self.data.stages)

    def block_note(self) -> str | None:
        """See `localize.block_note`."""
        return block_note(self.data.blocks)

    def block_bars(self) -> list[charts.Pair]:
        """Relative error by block, in percent, in order: of the whole model so far, and of the block alone."""
        rows = []
        for block in self.data.blocks:
            details = [f"own {100 * block.own_error:.3g} %"] if block.own_error is not None else []
            details += [f"cosine {block.cosine:.3f}"] if block.cosine is not None else []
            details += [f"attention KL {block.attention_kl:.2g}"] if block.attention_kl is not None else []
            own = None if block.own_error is None else 100 * block.own_error
            rows.append((block.name, 100 * block.relative_error, own, " · ".join(details)))
        return charts.pairs(rows)

    def pareto(self) -> list[charts.Scatter]:
        """Metric against size, and against latency, where at least two variants know both."""
        title = self.metric.title if self.metric else "Metric"
        y_label = f"{title} ({self.unit})" if self.unit else title
        better = self.metric.higher_is_better if self.metric else True
        plots = []
        for attribute, label, scale in (("bytes", "Size (MB)", 1e6), ("latency_ms", "Latency (ms)", 1.0)):
            points = [
                (v.name, getattr(v, attribute) / scale, v.metric, v.role)
                for v in self.data.variants
                if getattr(v, attribute) is not None and v.metric is not None
            ]
            plots.append(charts.scatter(points, label, y_label, better, self.y_limits))
        return [plot for plot in plots if plot is not None]

    def curves(self) -> list[charts.Lines]:
        """The line charts."""
        return [
            charts.lines(
                c.title,
                c.x_label,
                c.y_label,
                [(s.name, s.x, s.y) for s in c.series],
                (0.0, 100.0) if c.y_label.endswith("(%)") else None,
            )
            for c in self.data.curves
        ]

    def confusion(self) -> Iterator[tuple[Any, int, float]]:
        """(change, difference, width of its bar in percent)."""
        drift: Drift | None = self.data.drift
        changes = () if drift is None else drift.confusion[:12]
        largest = max((abs(c.candidate - c.reference) for c in changes), default=1)
        largest = max(largest, FEW)  # a single sample more or less should not fill the page
        for change in changes:
            difference = change.candidate - change.reference
            yield change, difference, 100 * abs(difference) / largest


def size_text(count: int | None) -> str:
    """Bytes as people read them, in powers of 1000."""
    if count is None:
        return "–"
    if count < 1000:
        return f"{count} B"
    for unit, scale in (("kB", 1e3), ("MB", 1e6), ("GB", 1e9)):
        if count < 999.5 * scale or unit == "GB":
            break
    return f"{count / scale:.3g} {unit}"


def number_text(value: float | None, digits: int = 2) -> str:
    """A number with fixed digits and thousands marks; a dash where there is none."""
    return "–" if value is None else f"{value:z,.{digits}f}"


def span_text(of: MetricDrift | GroupDrift) -> str:
    """An interval, with as many digits as its width needs; a dash where there is none."""
    if of.low is None or of.high is None or of.low == of.high:
        return "–"
    digits = max(2, 1 - math.floor(math.log10(of.high - of.low)))
    if digits > 6:
        return f"{of.low:.2g} … {of.high:.2g}"
    return f"{number_text(of.low, digits)} … {number_text(of.high, digits)}"


def threads_text(count: int | None) -> str:
    """'1 thread', '4 threads'; nothing where no number is known."""
    return "" if count is None else f"{count} thread{'s' if count > 1 else ''}"


def _tone(low: float | None, high: float | None) -> str:
    if low is not None and low > 0:
        return "bad"
    return "good" if high is not None and high < 0 else "plain"


def _inert(value: object) -> object:
    """What a template prints, without control characters."""
    return type(value)(printable(value)) if isinstance(value, str) else value


def _markdown_cell(text: object) -> str:
    """Text that cannot leave its table cell or start markup."""
    flat = " ".join(str(text).split())
    return re.sub(r"([\\`*_{}\[\]<#|~@])", r"\\\1", flat)
