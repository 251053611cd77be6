"""The last accepted run, kept in the user's repository, and the check that a candidate did not fall behind it.

The file holds each sample's answer (compressed), so that the comparison with the last run is paired like the one with
the original: the gate's own bounds on drops apply to both.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from compress.verification.drift import Drift
from compress.verification.gate import Gate
from compress.verification.outcome import Model, Status
from compress.verification.report_data import Curve, ExtraCheck, Series
from compress.verification.samples import Samples
from runtime.faults import inflated
from runtime.files import check_no_pipe, write_atomic
from targets.errors import InputError


class Run(Model):
    """The metrics of one accepted candidate. `label`: what its user called it, such as a commit."""

    label: str = ""
    metrics: dict[str, float]


class Baseline(Model):
    """results.json: the data it was measured on, every sample's answer, and all accepted runs, oldest first."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    kind: str
    data: str
    samples: int
    answers: str
    history: tuple[Run, ...] = Field(min_length=1)


def load(path: Path) -> Baseline:
    """Read a results.json. Raises InputError."""
    check_no_pipe(path)
    try:
        return Baseline.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read the baseline {path}: {error}; --update-baseline writes one") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        cause = f"{path} is not a baseline: {where}: {first['msg']}"
        raise InputError(f"{cause}; remove it, then --update-baseline writes one") from error


def update(path: Path, candidate: Samples, drift: Drift, label: str = "") -> None:
    """Accept the candidate: its answers become the baseline and its metrics join the history."""
    history = load(path).history if path.exists() else ()
    metrics = {m.name: m.candidate for m in drift.metrics if m.candidate is not None}
    baseline = Baseline(
        schema=1,
        kind=candidate.kind,
        data=_digest(candidate),
        samples=len(candidate),
        answers=base64.b64encode(zlib.compress(candidate.plain().compact().tobytes(), 9)).decode(),
        history=(*history, Run(label=label, metrics=metrics)),
    )
    write_atomic(path, (baseline.model_dump_json(indent=1, by_alias=True) + "\n").encode())


def check(baseline: Baseline, candidate: Samples, gate: Gate) -> ExtraCheck:
    """Judge the candidate against the last accepted run by the gate's bounds on drops."""
    if (baseline.kind, baseline.samples, baseline.data) != (candidate.kind, len(candidate), _digest(candidate)):
        message = "the baseline was measured on other data; accept this run with --update-baseline"
        return ExtraCheck(name="baseline", status=Status.ERROR, message=message)
    drops = [one for one in gate.check if one.bound in ("max_drop", "max_relative_drop")]
    if not drops:
        message = "the gate bounds no drop, so there is nothing to hold against the baseline"
        return ExtraCheck(name="baseline", status=Status.NOT_RUN, message=message)
    try:
        wanted = candidate.plain().compact().nbytes
        answers = inflated(base64.b64decode(baseline.answers, validate=True), wanted + 1)
        if len(answers) != wanted:
            raise ValueError(f"{len(answers)} bytes of them, {wanted} belong there")
        accepted = candidate.plain().restored(answers)
    except (ValueError, zlib.error) as error:
        return ExtraCheck(name="baseline", status=Status.ERROR, message=f"the baseline's answers are damaged: {error}")
    result = gate.model_copy(update={"check": tuple(drops)}).judge(accepted, candidate.plain())
    return ExtraCheck(name="baseline", status=result.status, message=f"since the last accepted run: {result.message}")


def curves(baseline: Baseline, drift: Drift, label: str) -> tuple[Curve, ...]:
    """The main metric of the accepted runs, oldest first, and of this one; none where it was not measured."""
    main = drift.metrics[0] if drift.metrics else None
    if main is None or main.candidate is None:
        return ()
    values = [run.metrics[main.name] for run in baseline.history if main.name in run.metrics]
    runs = [float(number) for number in range(1, len(values) + 2)]
    accepted = Series(name="accepted runs", x=tuple(runs[:-1]), y=tuple(values)) if values else None
    this = Series(name=label or "this run", x=tuple(runs[-1:]), y=(main.candidate,))
    unit = f"{main.title} ({main.unit})" if main.unit else main.title
    series = tuple(filter(None, (accepted, this)))
    return (Curve(title="Accepted runs", x_label="Run", y_label=unit, series=series),)


def _digest(samples: Samples) -> str:
    """SHA-256 of what both sides of a comparison share: the labels, lengths or gold scores."""
    digest = hashlib.sha256()
    for name in samples.shared:
        digest.update(samples.arrays()[name].tobytes())
    return digest.hexdigest()
