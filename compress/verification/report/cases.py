"""The checks of a report, whatever gate they belong to, in one list."""

from __future__ import annotations

from typing import NamedTuple

from compress.verification.localize import block_note, stage_note
from compress.verification.outcome import Status
from compress.verification.report_data import ReportData


class Case(NamedTuple):
    """One check, whatever gate it belongs to."""

    name: str
    status: Status
    message: str
    rule: str
    scope: str = "overall"

    @property
    def passed_overall(self) -> bool:
        """Did it pass, over all samples?"""
        return self.status is Status.PASS and self.scope == "overall"


def cases(data: ReportData) -> list[Case]:
    """Every check of the report. A report whose drift was not measured has a case that says so."""
    found = [Case(check.name, check.status, check.message, check.name) for check in data.checks]
    if data.drift is None:
        return [*found, Case("drift", Status.NOT_RUN, "the accuracy was not compared", "drift")]
    for check in data.drift.gate.checks:
        name = f"{check.metric} {check.scope} {check.bound} {check.limit:g}"
        found.append(Case(name, check.status, check.message, check.metric, check.scope))
    return found


def findings(data: ReportData) -> list[str]:
    """Where the drift comes from, in a sentence each."""
    return [note for note in (stage_note(data.stages), block_note(data.blocks)) if note]
