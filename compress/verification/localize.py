"""Finding where drift comes from: the first step between two models, and the blocks of one, that lose what is lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from compress.verification.drift import MetricDrift
from compress.verification.estimate import Sampling, estimate_drop
from compress.verification.metrics import METRICS
from compress.verification.outcome import Bound
from compress.verification.report_data import BlockRow, StageRow
from compress.verification.samples import Samples

#: A block's output that is off by more than this share of its size is named as the first that is.
BLOCK_BOUND = 0.1
#: The bounds of a gate that steps are held to.
DROPS: tuple[Bound, ...] = ("max_drop", "max_relative_drop")
#: The status of the step at which drift exceeds what the gate allows.
FIRST_BEYOND = "first beyond the bound"


def _allowed(bound: Bound, limit: float, reference: float | None) -> float:
    """The largest drop that the gate allows, in the metric's unit."""
    return limit * abs(reference or 0.0) / 100 if bound == "max_relative_drop" else limit


def first_beyond(count: int, is_beyond: Callable[[int], bool]) -> int | None:
    """The first of `count` stages in a row that is beyond a bound, by bisection: `is_beyond` is asked about log2 of
    them. None if the last is within. Right where drift does not shrink again from stage to stage."""
    if count == 0 or not is_beyond(count - 1):
        return None
    low, high = 0, count - 1
    while low < high:
        middle = (low + high) // 2
        if is_beyond(middle):
            high = middle
        else:
            low = middle + 1
    return high


def bisect_steps(
    steps: Sequence[str], measure: Callable[[str], MetricDrift], bound: Bound, limit: float
) -> list[StageRow]:
    """A row for each step, in order; the first whose measured drop is beyond the gate's `limit` is marked.

    `measure` gives the drop of one step from the reference; only the steps that bisection needs are measured.
    """
    found: dict[int, MetricDrift] = {}

    def is_beyond(index: int) -> bool:
        if index not in found:
            found[index] = measure(steps[index])
        return (found[index].drop or 0.0) > _allowed(bound, limit, found[index].reference)

    first = first_beyond(len(steps), is_beyond)
    rows = []
    for index, step in enumerate(steps):
        if index not in found:
            rows.append(StageRow(name=step, status="not measured", note="bisection did not need it"))
            continue
        drift = found[index]
        status = FIRST_BEYOND if index == first else "beyond" if is_beyond(index) else "within"
        rows.append(
            StageRow(
                name=step,
                status=status,
                metric=drift.candidate,
                drop=drift.drop,
                low=drift.low,
                high=drift.high,
            )
        )
    return rows


def step_rows(
    reference: Samples, steps: Mapping[str, Samples], metric: str, bound: Bound, limit: float, notes: Mapping[str, str]
) -> list[StageRow]:
    """A row for each step from the original on, all measured on the same samples, in order.

    `bound` and `limit` are the gate's; a step is beyond them when its measured drop is. `notes` by step.
    """
    judged = METRICS[metric]
    rows: list[StageRow] = []
    for name, samples in steps.items():
        own, samples = reference.beside(reference), samples.beside(reference)
        estimate = estimate_drop(judged, judged.rows(own), judged.rows(samples), Sampling())
        allowed = _allowed(bound, limit, estimate.reference)
        earlier = any(row.status.startswith("first") for row in rows)
        beyond = estimate.value > allowed
        low, high = estimate.interval or (None, None)
        compared = [
            f"{one.title} {one.value(own, samples):.3g}{f' {one.unit}' if one.unit else ''}"
            for one in samples.metrics
            if one.compares and one.sampled and one.gather is None  # of some samples alone, groups are not whole
        ]
        rows.append(
            StageRow(
                name=name,
                status=("beyond" if earlier else FIRST_BEYOND) if beyond else "within",
                metric=estimate.candidate,
                drop=estimate.value,
                low=low,
                high=high,
                note=". ".join(filter(None, [", ".join(compared), notes.get(name)])),
            )
        )
    return rows


def stage_note(rows: Sequence[StageRow]) -> str | None:
    """One sentence on the step that loses too much; None where no step was measured."""
    if all(row.drop is None for row in rows):
        return None
    first = next((row.name for row in rows if row.status == FIRST_BEYOND), None)
    if first is None:
        return "No step loses more than the gate allows."
    return f"The first step that loses more than the gate allows is {first}."


def block_note(rows: Sequence[BlockRow]) -> str | None:
    """One sentence on where the drift of the blocks comes from; None without rows or drift."""
    own = [row for row in rows if row.own_error]
    if not own:
        return None
    first = first_beyond(len(rows), lambda index: rows[index].relative_error > BLOCK_BOUND)
    largest = max(own, key=lambda row: row.own_error or 0.0)
    text = f"The largest error of its own is that of {largest.name} ({100 * (largest.own_error or 0):.1f} %)"
    if first is None:
        return f"{text}; no block's output is off by more than {100 * BLOCK_BOUND:g} %."
    return f"{text}; the first output off by more than {100 * BLOCK_BOUND:g} % is that of {rows[first].name}."
