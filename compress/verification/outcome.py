"""Outcomes of checks and gates: they carry their statistics and are true only when passed."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from compress.spec import numbers_only

Bound = Literal["max_drop", "max_relative_drop", "min_value", "max_value"]
#: Least samples in every scope that is judged, unless a gate or a recipe says another number.
MIN_SAMPLES = 50
BOUNDS: tuple[Bound, ...] = ("max_drop", "max_relative_drop", "min_value", "max_value")


class Status(StrEnum):
    """Outcome of a check or a gate. Only `pass` is a pass."""

    PASS = "pass"
    FAIL = "fail"
    ERROR = "error"
    NOT_RUN = "not-run"


class Model(BaseModel):
    """Base of the models here: immutable, no unknown keys, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_only(cls, value: Any, info: ValidationInfo) -> Any:
        return numbers_only(cls, value, info)


class CheckResult(Model):
    """Outcome of one check in one scope, with its statistics. True only when passed.

    `value` is what the bound bounds: the drop, or the candidate's value; `low`, `high` its interval; `worst` the end
    that is judged. `losses` and `wins` count the samples that only the reference, only the candidate got right.
    """

    status: Status
    metric: str
    scope: str
    bound: Bound
    limit: float
    unit: str
    samples: int
    message: str
    reference: float | None = None
    candidate: float | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    worst: float | None = None
    losses: int | None = None
    wins: int | None = None
    p_noninferior: float | None = None
    p_mcnemar: float | None = None

    def __bool__(self) -> bool:
        return self.status is Status.PASS


class GateResult(Model):
    """Outcome of a gate. True only when every check passed and there was at least one."""

    status: Status
    samples: int
    confidence: float
    seed: int
    checks: tuple[CheckResult, ...]

    def __bool__(self) -> bool:
        return self.status is Status.PASS

    @property
    def message(self) -> str:
        """One line: the first check that decided the status, or the first check when all passed."""
        deciding = [check for check in self.checks if check.status is self.status]
        if not deciding:
            return "no check was run"
        more = f" (and {len(deciding) - 1} more)" if len(deciding) > 1 and not self else ""
        return deciding[0].message + more


def combined_status(statuses: list[Status]) -> Status:
    """The worst of the parts: error, then fail, then not-run; pass only when all passed and there was one."""
    for status in (Status.ERROR, Status.FAIL, Status.NOT_RUN):
        if status in statuses:
            return status
    return Status.PASS if statuses else Status.NOT_RUN
