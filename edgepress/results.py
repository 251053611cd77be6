"""What the functions give back: true if the gate passed, a table for terminals and notebooks, paths and numbers."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from targets.errors import GateFailed

if TYPE_CHECKING:
    from rich.console import RenderableType

    from compress.verification.report_data import ReportData, Variant
    from edgepress.bundles import Model

_HEADS = ("model", "size", "metric", "latency", "against the original")


@dataclass(frozen=True, repr=False)
class Judged:
    """A comparison with the original. It is true only if every check passed.

    `data` holds every number of the report, typed; `lost` and `worst` are in the unit of the task's metric.
    """

    data: ReportData

    def __bool__(self) -> bool:
        return self.verdict == "pass"

    @property
    def verdict(self) -> str:
        """pass, fail, error or not-run; only pass is a pass."""
        return str(self.data.verdict)

    @property
    def reason(self) -> str:
        """The check that decided, in one sentence."""
        return self.data.headline

    @property
    def lost(self) -> float | None:
        """How much of the task's metric was lost; below 0 if it rose. None if it was not measured."""
        return self._of_metric("drop")

    @property
    def worst(self) -> float | None:
        """The worse end of the interval around `lost`, which is what the gate bounds."""
        return self._of_metric("high")

    @property
    def models(self) -> tuple[Variant, ...]:
        """The original, its plain quantized forms and the files that ship: bytes, metric, latency of each."""
        return self.data.variants

    @property
    def smaller(self) -> float | None:
        """How many times fewer bytes the file that ships has than the original in fp32."""
        return self._gain("bytes")

    @property
    def faster(self) -> float | None:
        """How many times as fast it is, on the machine that made it."""
        return self._gain("latency_ms")

    def check(self) -> Self:
        """The result itself. Raises GateFailed if it did not pass."""
        if not self:
            raise GateFailed(f"the gate did not pass: {self.reason}")
        return self

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.verdict}: {self.reason}>"

    def __str__(self) -> str:
        lines = [_line(row) for row in [_HEADS, *self._rows()]] if self.models else []
        return "\n".join([*lines, *self._places(), f"verdict: {self.verdict} ({self.reason})"])

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(*_HEADS, box=None, pad_edge=False)
        for row in self._rows():
            table.add_row(*row)
        colour = "green" if self else "red"
        verdict = Text.assemble((self.verdict.upper(), f"bold {colour}"), f"  {self.reason}")
        return Group(verdict, *([table] if self.models else []), *map(Text, self._places()))

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        colour = "#1a7f37" if self else "#b3261e"
        heads = "".join(f"<th style='text-align:left'>{html.escape(head)}</th>" for head in _HEADS)
        rows = "".join(
            "<tr>" + "".join(f"<td style='text-align:left'>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self._rows()
        )
        table = f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>" if rows else ""
        places = "".join(f"<div><code>{html.escape(place)}</code></div>" for place in self._places())
        verdict = f"<b style='color:{colour}'>{html.escape(self.verdict.upper())}</b> {html.escape(self.reason)}"
        return f"<div>{verdict}{table}{places}</div>"

    def _places(self) -> list[str]:
        """Lines that say where the files are."""
        return []

    def _of_metric(self, name: str) -> float | None:
        drift = self.data.drift
        return getattr(drift.metrics[0], name) if drift is not None and drift.metrics else None

    def _role(self, role: str) -> Any:
        return next((row for row in self.models if row.role == role), None)

    def _gain(self, attribute: Literal["bytes", "latency_ms"], row: Variant | None = None) -> float | None:
        before, after = self._role("reference"), row or self._role("candidate")
        return after.gain(attribute, before) if before and after else None

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                row.name,
                "" if row.bytes is None else f"{row.bytes / 1e6:.2f} MB",
                "" if row.metric is None else f"{row.metric:.2f}",
                "" if row.latency_ms is None else f"{row.latency_ms:.2f} ms",
                "" if row.role == "reference" else self._gains(row),
            )
            for row in self.models
        ]

    def _gains(self, row: Variant) -> str:
        smaller, faster = self._gain("bytes", row), self._gain("latency_ms", row)
        gains = [f"{smaller:.2f}x smaller"] if smaller else []
        return ", ".join([*gains, *([f"{faster:.2f}x as fast"] if faster else [])])


@dataclass(frozen=True, repr=False)
class Verified(Judged):
    """What `edgepress.verify` found."""


@dataclass(frozen=True, repr=False)
class Compressed(Judged):
    """What `edgepress.compress` made. `bundle` is the folder for the device, `report` the page for people."""

    bundle: Path
    report: Path

    def open(self) -> Model:
        """The bundle, ready to be asked. Raises GateFailed if it did not pass."""
        from edgepress.bundles import open as open_bundle

        return open_bundle(self.bundle)

    def _places(self) -> list[str]:
        return [f"report:  {self.report}", f"bundle:  {self.bundle}"]


def _line(row: tuple[str, ...]) -> str:
    name, size, metric, latency, gains = row
    return f"{name:28} {size:>10} {metric:>8} {latency:>11}  {gains}".rstrip()
