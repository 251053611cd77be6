"""Gates: bounds on metrics that a candidate must meet with confidence. Whatever cannot be judged does not pass.

A check passes when the worse end of the two-sided interval meets its bound, so a gate at 95 % passes a candidate that
is really over the bound in about 2.5 % of cases. All checks must pass, each at that level, so the gate as a whole
keeps it without a correction for their number (intersection-union test).
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, field_validator, model_validator

from compress.verification.estimate import Estimate, Sampling, estimate_drop, estimate_value
from compress.verification.metric import F64, Metric
from compress.verification.metrics import METRICS, needs
from compress.verification.outcome import (
    BOUNDS,
    MIN_SAMPLES,
    Bound,
    CheckResult,
    GateResult,
    Model,
    Status,
    combined_status,
)
from compress.verification.power import power_sentence, reach_sentence
from compress.verification.samples import Samples
from compress.verification.statistics import mcnemar_exact, noninferiority_p
from runtime.files import check_no_pipe
from targets.errors import MOST_CHARACTERS, InputError, one_line

Slices = Mapping[str, NDArray[np.bool_]]
_SLACK = 1e-9  # the rounding of a percentage must not decide
#: Longest message of a check, with room for the words around it in one line.
LONGEST = MOST_CHARACTERS - 30


class Check(Model):
    """One bound on one metric: over all samples, or in every class or every slice."""

    metric: str = Field(description="Name of a metric, such as top1")
    per: Literal["overall", "class", "slice"] = "overall"
    max_drop: float | None = Field(default=None, description="Largest drop, in the metric's unit (points for rates)")
    max_relative_drop: float | None = Field(
        default=None, description="Largest drop, in percent of the reference's value"
    )
    min_value: float | None = Field(default=None, description="Least value of the candidate")
    max_value: float | None = Field(default=None, description="Largest value of the candidate")
    min_samples: int | None = Field(default=None, ge=1, description="Overrides the gate's min_samples")

    @field_validator("metric")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in METRICS:
            near = difflib.get_close_matches(name, METRICS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"no metric is called {name!r}{hint} There are {', '.join(METRICS)}")
        return name

    @model_validator(mode="after")
    def _one_bound(self) -> Check:
        given = [name for name in BOUNDS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(BOUNDS)}; given: {', '.join(given) or 'none'}")
        if METRICS[self.metric].compares and given[0] in ("max_drop", "max_relative_drop"):
            raise ValueError(f"{self.metric} compares the two sides and has no drop: give min_value or max_value")
        return self

    @property
    def bound(self) -> Bound:
        """Which of the bounds is given."""
        return next(name for name in BOUNDS if getattr(self, name) is not None)

    @property
    def limit(self) -> float:
        """The bound's number."""
        return float(getattr(self, self.bound))


class Gate(Model):
    """What `gate.toml` holds."""

    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    min_samples: int = Field(default=MIN_SAMPLES, ge=1, description="Least samples in every scope that is judged")
    resamples: int = Field(default=2000, ge=200, le=100_000, description="Bootstrap resamples, where any are drawn")
    seed: int = Field(default=0, ge=0)
    stop_early: float | None = Field(
        default=None,
        ge=0,
        le=0.01,
        description="Stop predicting once the verdict is certain up to this error (0: logically certain)",
    )
    check: tuple[Check, ...] = Field(min_length=1)

    def sampling(self) -> Sampling:
        """How intervals are drawn."""
        return Sampling(self.confidence, self.resamples, self.seed)

    def judge(self, reference: Samples, candidate: Samples, slices: Slices | None = None) -> GateResult:
        """Judge the candidate against the reference. Defects of the samples give status `error`, never an exception.

        `slices` maps a slice's name to a mask of shape [S].
        """
        reference, candidate = reference.beside(reference), candidate.beside(reference)
        fault = sides_fault(reference, candidate)
        results: list[CheckResult] = []
        for check in self.check:
            if fault is not None:
                results.append(_no_result(check, check.per, len(candidate), fault))
            elif METRICS[check.metric] not in candidate.metrics:
                lacks = f"needs {needs(METRICS[check.metric])}, the sides hold {candidate.kind}"
                results.append(_no_result(check, check.per, len(candidate), lacks))
            else:
                results += self._judge_scopes(check, reference, candidate, slices or {})
        return GateResult(
            status=combined_status([result.status for result in results]),
            samples=len(candidate),
            confidence=self.confidence,
            seed=self.seed,
            checks=tuple(results),
        )

    def _judge_scopes(self, check: Check, reference: Samples, candidate: Samples, slices: Slices) -> list[CheckResult]:
        scopes = _scopes(check, candidate, slices)
        if not scopes:
            return [_no_result(check, check.per, len(candidate), f"the data have no {check.per} to judge by")]
        metric = METRICS[check.metric]
        drop = check.bound in ("max_drop", "max_relative_drop") and len(candidate) >= self.min_samples
        if drop and (fault := reference.knows_nothing(self.confidence)):
            return [_no_result(check, check.per, len(candidate), f"reference: {fault}")]
        sides = _rows(metric, check.bound, reference, candidate)
        return [self._judge_scope(check, metric, scope, mask, sides) for scope, mask in scopes]

    def _judge_scope(
        self, check: Check, metric: Metric, scope: str, mask: NDArray[np.bool_], sides: list[F64]
    ) -> CheckResult:
        if mask.shape != (len(sides[0]),) or mask.dtype != np.bool_:
            return _no_result(check, scope, 0, f"its mask must be {len(sides[0])} booleans")
        picked = [side[mask] for side in sides]
        samples, least = len(metric.gathered(picked[0])), check.min_samples or self.min_samples
        if samples < least:
            few = f"{samples} {metric.noun} are too few to judge: min_samples is {least}"
            return _no_result(check, scope, samples, few)
        estimate = (
            estimate_drop(metric, picked[0], picked[1], self.sampling())
            if len(picked) == 2
            else estimate_value(metric, picked[0], self.sampling())
        )
        if not estimate.finite():
            return _no_result(check, scope, samples, "the metric overflows to infinity or NaN")
        return self._decide(check, metric, scope, estimate)

    def _decide(self, check: Check, metric: Metric, scope: str, estimate: Estimate) -> CheckResult:
        limit = check.limit
        allowed = limit * abs(estimate.reference or 0) / 100 if check.bound == "max_relative_drop" else limit
        low, high = estimate.interval or (estimate.value, estimate.value)
        least = check.bound == "min_value"
        worst = low if least else high
        slack = _SLACK if metric.rate else 0.0
        meets = worst >= allowed - slack if least else worst <= allowed + slack
        point_meets = estimate.value >= allowed if least else estimate.value <= allowed
        message = _message(check, metric, scope, estimate, worst, allowed, self.confidence)
        discordance = ((estimate.losses or 0) + (estimate.wins or 0)) / estimate.samples
        paired = estimate.losses is not None and estimate.wins is not None
        if not meets and point_meets and paired:
            hint = power_sentence(estimate.samples, discordance, allowed / 100, self.confidence)
            message = f"{message}. {hint}" if hint else message
        if not meets and point_meets and not paired:
            hint = reach_sentence(estimate.samples, abs(worst - estimate.value), abs(allowed - estimate.value))
            message = f"{message}. {hint}" if hint else message
        margin = allowed / 100
        return CheckResult(
            status=Status.PASS if meets else Status.FAIL,
            metric=check.metric,
            scope=scope,
            bound=check.bound,
            limit=limit,
            unit=metric.unit,
            samples=estimate.samples,
            message=one_line(message, LONGEST),
            reference=estimate.reference,
            candidate=estimate.candidate,
            value=estimate.value,
            low=low,
            high=high,
            worst=worst,
            losses=estimate.losses,
            wins=estimate.wins,
            p_noninferior=_score_p(estimate, margin) if paired else None,
            p_mcnemar=mcnemar_exact(estimate.losses or 0, estimate.wins or 0) if paired else None,
        )


def default_gate(metric: str, max_drop: float, confidence: float = 0.95, seed: int = 0) -> Gate:
    """The gate of a recipe's short form: a bound on the drop of a task's own metric. Raises InputError."""
    bound = METRICS[metric].bound if metric in METRICS else "max_drop"
    return parse({"confidence": confidence, "seed": seed, "check": [{"metric": metric, bound: max_drop}]})


def load(path: Path) -> Gate:
    """Read a gate.toml. Raises InputError that names the file, the key and what is allowed."""
    check_no_pipe(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the gate {path}: {error}; give a TOML file") from error
    except (ValueError, RecursionError) as error:  # of TOML, of its numbers, or nested too deeply
        raise InputError(f"{path} is not TOML: {error}") from error
    return parse(table, str(path))


def parse(table: dict[str, Any], where: str = "gate") -> Gate:
    """A gate from the table of a TOML file. Raises InputError with one line for the first cause."""
    try:
        return Gate.model_validate(table)
    except ValidationError as error:
        raise InputError(f"{where}: {_first_cause(error)}") from error


def sides_fault(reference: Samples, candidate: Samples) -> str | None:
    """Why the two sides cannot be compared at all, or None."""
    for side, samples in (("reference", reference), ("candidate", candidate)):
        if fault := samples.fault():
            return f"{side}: {fault}"
    return reference.mismatch(candidate)


def _rows(metric: Metric, bound: Bound, reference: Any, candidate: Any) -> list[F64]:
    if metric.compares:
        return [metric.rows(reference, candidate)]
    if bound in ("min_value", "max_value"):
        return [metric.rows(candidate)]
    return [metric.rows(reference), metric.rows(candidate)]


def _scopes(check: Check, samples: Samples, slices: Slices) -> list[tuple[str, NDArray[np.bool_]]]:
    if check.per == "overall":
        return [("overall", np.ones(len(samples), dtype=np.bool_))]
    if check.per == "slice":
        return [(f"slice {name}", mask) for name, mask in slices.items()]
    return [(f"class {name}", mask) for name, mask in samples.groups()]


def _no_result(check: Check, scope: str, samples: int, reason: str) -> CheckResult:
    return CheckResult(
        status=Status.ERROR,
        metric=check.metric,
        scope=scope,
        bound=check.bound,
        limit=check.limit,
        unit=METRICS[check.metric].unit,
        samples=samples,
        message=one_line(f"{check.metric} ({scope}): {reason}", LONGEST),
    )


def _score_p(estimate: Estimate, margin: float) -> float | None:
    if not -1 < margin < 1:
        return None
    return noninferiority_p(estimate.losses or 0, estimate.wins or 0, estimate.samples, margin)


def _message(
    check: Check, metric: Metric, scope: str, estimate: Estimate, worst: float, allowed: float, confidence: float
) -> str:
    where = "" if scope == "overall" else f" in {scope}"

    def text(value: float | None) -> str:
        fine = abs(worst - allowed) < 0.01
        in_points = metric.rate or metric.unit == "points"
        return f"{value:z.{4 if fine else 2}f}" if in_points and value is not None else f"{value:z.4g}"

    at_worst = f", at worst {text(worst)} ({100 * confidence:g} % confidence)" if estimate.interval else ""
    limit = f"allowed at {'least' if check.bound == 'min_value' else 'most'} {allowed:.4g}"
    limit += f" ({check.limit:g} %)" if check.bound == "max_relative_drop" else ""
    unit = f" {metric.unit}" if metric.unit else ""
    if estimate.reference is None:
        return f"{metric.title}{where}: {text(estimate.value)}{unit}{at_worst}; {limit}"
    sides = f"{text(estimate.reference)} -> {text(estimate.candidate)}"
    unit = " points" if metric.unit == "%" else unit
    change = "drop" if metric.higher_is_better else "rise"
    return f"{metric.title}{where}: {sides}, {change} {text(estimate.value)}{unit}{at_worst}; {limit}"


def _first_cause(error: ValidationError) -> str:
    cause = error.errors(include_url=False)[0]
    place = [f"[{part + 1}]" if isinstance(part, int) else part for part in cause["loc"]]
    key = ".".join(place).replace(".[", "[")
    message = cause["msg"].removeprefix("Value error, ")
    if cause["type"] == "extra_forbidden":
        fields = Check.model_fields if "check" in cause["loc"] else Gate.model_fields
        near = difflib.get_close_matches(str(cause["loc"][-1]), fields, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; allowed are {', '.join(fields)}"
        return f"unknown key {key}{hint}"
    if cause["type"] == "missing":
        return f"{key} is missing"
    given = (
        "" if cause["type"] == "value_error" or isinstance(cause["input"], dict) else f" (given: {cause['input']!r})"
    )
    return f"{key}: {message}{given}"
