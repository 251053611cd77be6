"""The front of a search: a page for people and a JSON file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compress.search.front import Candidate
from compress.search.gating import Gated
from compress.search.limits import Limits
from compress.search.rungs import Scored
from runtime.files import write_atomic

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Findings:
    """All that a search found. `timing_error`: the median relative error of predicted times on whole models; `refused`:
    what no layer takes, by reason."""

    model: str
    target: str
    machine: str
    max_drop: float
    limits: Limits
    original_ms: float
    predicted: Sequence[Candidate]
    healed: Sequence[Scored]
    gated: Sequence[Gated]
    given: Gated
    timing_error: float | None


def document(found: Findings) -> dict[str, Any]:
    """The front as JSON: `predicted`, `healed` and `gated` candidates, each with its choices as a recipe has them."""

    def candidate(one: Candidate) -> dict[str, Any]:
        return {
            "label": one.label,
            "ms": round(one.ms, 5),
            "bytes": round(one.bytes),
            "drift": round(one.drift, 7),
            "rewrites": [choice.table for choice in one.choices],
        }

    return {
        "schema": 1,
        "model": found.model,
        "target": found.target,
        "measured_on": found.machine,
        "limits": {"max_drop": found.max_drop, **asdict(found.limits)},
        "original_ms": round(found.original_ms, 5),
        "timing_error": found.timing_error,
        "predicted": [candidate(one) for one in found.predicted],
        "healed": [
            {
                **candidate(one.candidate),
                "steps": one.steps,
                "healed_drift": round(one.drift, 7),
                "agreement": round(one.agreement, 6),
                "file_bytes": one.bytes,
            }
            for one in found.healed
        ],
        "gated": [
            {
                **candidate(one.candidate),
                "confidence": one.job.recipe.gate.confidence,
                "verdict": one.verdict,
                "reason": one.reason,
                "measured_ms": round(one.ms, 5),
                "file_bytes": one.bytes,
                "memory_bytes": one.memory,
                "missed": list(one.missed),
                "given": one is found.given,
            }
            for one in found.gated
        ],
    }


def write_page(found: Findings, folder: Path) -> None:
    """front.json and front.html, a page that needs nothing else."""
    write_atomic(folder / "front.json", (json.dumps(document(found), indent=1) + "\n").encode())
    write_atomic(folder / "front.html", _html(found).encode())


def _html(found: Findings) -> str:
    from compress.verification.report.charts import scatter
    from compress.verification.report.pages import TEMPLATES, View, environment

    points = [(f"{one.ms:.3g} ms", one.ms, one.drift, "other") for one in found.predicted]
    predicted = scatter(points, "Predicted ms", "Predicted drift", higher_is_better=False)
    last = {one.candidate.choices: one for one in found.healed}
    tones = {True: "candidate", False: "other"}
    healed = scatter(
        [
            (
                f"{one.candidate.ms:.3g} ms",
                one.candidate.ms,
                100 * one.agreement,
                tones[one.candidate.choices == found.given.candidate.choices],
            )
            for one in last.values()
        ],
        "Predicted ms",
        "Agreement, %",
        higher_is_better=True,
        y_limits=(0.0, 100.0),
    )
    plots = [one for one in (predicted, healed) if one is not None]
    template = environment([_TEMPLATES, TEMPLATES], markdown=False).get_template("front.html")
    return template.render(found=found, plots=plots, view=View)
