"""What a run leaves behind for the user: files in --out, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from compress.pipeline import Artifact
from compress.stages.artifacts import Comparison
from runtime.files import check_writable
from targets.errors import InputError


@dataclass(frozen=True)
class Outcome:
    """`verdict`: pass, fail, error or not-run; anything but pass is a failed run. `reason`: the check that decided."""

    bundle: str
    report: str
    verdict: str
    reason: str

    def text(self) -> str:
        """The last lines of standard output."""
        return f"report:  {self.report}\nbundle:  {self.bundle}\nverdict: {self.verdict} ({self.reason})"


#: What is delivered, and the file that tells such a folder of ours from one of the user's.
_DELIVERED = {"bundle": "manifest.json", "report": "report.json"}


def check_out(out: Path) -> None:
    """Look, before an hour of work, whether results can be put into `out` without a loss of what is there.

    Raises InputError or EnvironmentLacks.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; give a folder")
    for name, mark in _DELIVERED.items():
        place = out / name
        if place.exists() and not (place / mark).is_file() and not (place.is_dir() and not any(place.iterdir())):
            raise InputError(f"{place} is of no earlier run (no {mark} in it) and would be lost; give another --out")
    check_writable(out)


def deliver(artifacts: Mapping[str, Artifact], out: Path) -> Outcome:
    """Copy bundle and report to `out`, each replaced as a whole, neither before both are there. Raises InputError or
    EnvironmentLacks."""
    _replace({artifacts[name].path: out / name for name in _DELIVERED})
    verdict, reason = judge(artifacts["verify"])
    return Outcome(str(out / "bundle"), str(out / "report" / "report.html"), verdict, reason)


def judge(comparison: Artifact) -> tuple[str, str]:
    """The worst status of all shipped files, and the message of the check that has it."""
    from compress.verification.outcome import combined_status

    assert isinstance(comparison, Comparison)
    drifts = comparison.drifts()
    found = [(drift.status, f"{file}: {drift.gate.message}") for file, drift in drifts.items()]
    found += [(check.status, f"{check.name}: {check.message}") for check in comparison.checks()]
    verdict = combined_status([status for status, _ in found])
    return str(verdict), next(message for status, message in found if status is verdict)


def _replace(places: Mapping[Path, Path]) -> None:
    """Put copies of folders in the places of others; at no time is there none, or a mixture of both."""
    from export.folders import copy_file, replaced

    with ExitStack() as stack:
        for source, place in places.items():
            fresh = stack.enter_context(replaced(place))
            for path in sorted(source.rglob("*")):
                if path.is_file():
                    copy_file(path, fresh / path.relative_to(source))
