"""How far a candidate drifted from its reference: every metric with its interval, and where the changes are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compress.verification.changed import ChangedExample
from compress.verification.early import Decision
from compress.verification.estimate import Estimate, Sampling, estimate_drop, estimate_value
from compress.verification.gate import Gate, Slices, sides_fault
from compress.verification.outcome import GateResult, Model, Status
from compress.verification.samples import Samples, same
from compress.verification.statistics import mcnemar_exact

CONFUSION_CHANGES = 20


class MetricDrift(Model):
    """One metric: the `drop` (positive: worse) where each side has a value, else the pair's `value`."""

    name: str
    title: str
    unit: str
    higher_is_better: bool
    reference: float | None
    candidate: float | None
    drop: float | None
    value: float | None
    low: float | None
    high: float | None


class GroupDrift(Model):
    """The first metric within one class or slice. The numbers are None where there are no samples."""

    name: str
    samples: int
    reference: float | None
    candidate: float | None
    drop: float | None
    low: float | None
    high: float | None


class ConfusionChange(Model):
    """How many samples of class `label` each side calls `predicted`."""

    label: str
    predicted: str
    reference: int
    candidate: int


class Drift(Model):
    """The whole comparison. All but the gate's result is empty when the sides cannot be compared.

    `samples` are all different; `copies` of them were left out.
    """

    samples: int
    copies: int = 0
    kind: str
    gate: GateResult
    identical: bool = False
    losses: int | None = None
    wins: int | None = None
    p_mcnemar: float | None = None
    metrics: tuple[MetricDrift, ...] = ()
    classes: tuple[GroupDrift, ...] = ()
    slices: tuple[GroupDrift, ...] = ()
    confusion: tuple[ConfusionChange, ...] = ()
    changed: tuple[ChangedExample, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.gate)

    @property
    def status(self) -> Status:
        """The gate's status."""
        return self.gate.status

    def metric(self, name: str) -> MetricDrift | None:
        """The drift of one metric, if it was computed."""
        return next((metric for metric in self.metrics if metric.name == name), None)

    def at(self, places: NDArray[np.int64]) -> Drift:
        """The same, its examples numbered by the samples' `places` in the data."""
        moved = [one.model_copy(update={"index": int(places[one.index])}) for one in self.changed]
        return self.model_copy(update={"changed": tuple(moved)})

    def to_json(self) -> str:
        """JSON text; `from_json` gives an equal Drift back."""
        return self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls, text: str) -> Drift:
        """Read `to_json`'s text. Raises pydantic's ValidationError for anything else."""
        return cls.model_validate_json(text)


def compare(
    reference: Samples,
    candidate: Samples,
    gate: Gate,
    slices: Slices | None = None,
    decision: Decision | None = None,
    copies: int = 0,
) -> Drift:
    """Compare two sides on the same samples and judge them by `gate`. Deterministic.

    `decision`: what was certain when predicting stopped early, which then is the verdict. `slices` maps a slice's name
    to a bool mask of shape [S]. `copies`: how many samples were left out for having the content of another. Sides that
    cannot be compared give a Drift whose gate has status `error`, not an exception.
    """
    reference, candidate = reference.beside(reference), candidate.beside(reference)
    result = gate.judge(reference, candidate, slices)
    if decision is not None:
        result = decision.settle(result)
    whole = Drift(samples=len(candidate), copies=copies, kind=candidate.kind, gate=result)
    if sides_fault(reference, candidate) is not None:
        return whole
    sampling = gate.sampling()
    update: dict[str, object] = {
        "identical": same(reference, candidate),
        "metrics": tuple(_metric_drift(reference, candidate, sampling)),
    }
    update |= {
        "slices": tuple(_group(n, m, reference, candidate, sampling) for n, m in (slices or {}).items()),
        "classes": tuple(_group(n, m, reference, candidate, sampling) for n, m in candidate.groups()),
        "confusion": tuple(_confusion_changes(reference, candidate)),
        "changed": tuple(reference.most_changed(candidate)),
    }
    was, now = reference.right(), candidate.right()
    if was is not None and now is not None:
        losses, wins = int((was & ~now).sum()), int((now & ~was).sum())
        update |= {"losses": losses, "wins": wins, "p_mcnemar": mcnemar_exact(losses, wins)}
    return whole.model_copy(update=update)


def _metric_drift(reference: Samples, candidate: Samples, sampling: Sampling) -> list[MetricDrift]:
    drifts = []
    for metric in candidate.metrics:
        if metric.compares:
            estimate = estimate_value(metric, metric.rows(reference, candidate), sampling)
        else:
            estimate = estimate_drop(metric, metric.rows(reference), metric.rows(candidate), sampling)
        if not estimate.finite():
            continue
        drifts.append(
            MetricDrift(
                name=metric.name,
                title=metric.title,
                unit=metric.unit,
                higher_is_better=metric.higher_is_better,
                reference=estimate.reference,
                candidate=estimate.candidate,
                drop=None if metric.compares else estimate.value,
                value=estimate.value if metric.compares else None,
                **_ends(estimate),
            )
        )
    return drifts


def _group(name: str, mask: np.ndarray, reference: Samples, candidate: Samples, sampling: Sampling) -> GroupDrift:
    samples, metric = int(mask.sum()), candidate.metrics[0]
    if samples == 0 or metric.compares:
        return GroupDrift(name=name, samples=samples, reference=None, candidate=None, drop=None, low=None, high=None)
    rows = metric.rows
    estimate = estimate_drop(metric, rows(reference.take(mask)), rows(candidate.take(mask)), sampling)
    return GroupDrift(
        name=name,
        samples=samples,
        reference=estimate.reference,
        candidate=estimate.candidate,
        drop=estimate.value,
        **_ends(estimate),
    )


def _ends(estimate: Estimate) -> dict[str, float | None]:
    low, high = estimate.interval or (None, None)
    return {"low": low, "high": high}


def _confusion_changes(reference: Samples, candidate: Samples) -> list[ConfusionChange]:
    """The confusions (off the diagonal) whose counts changed most; ties in label order."""
    was, now, names = reference.confusion(), candidate.confusion(), [name for name, _ in candidate.groups()]
    if was is None or now is None:
        return []
    size = np.abs(now - was)
    np.fill_diagonal(size, 0)
    order = np.argsort(-size, axis=None, kind="stable")[:CONFUSION_CHANGES]
    places = [(int(place) // len(names), int(place) % len(names)) for place in order]
    return [
        ConfusionChange(
            label=names[label],
            predicted=names[predicted],
            reference=int(was[label, predicted]),
            candidate=int(now[label, predicted]),
        )
        for label, predicted in places
        if size[label, predicted] > 0
    ]
