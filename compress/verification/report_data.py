"""What a report says, as one typed value. Rendering adds nothing to it: no clock, no host, no measurement."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, computed_field, field_validator, model_validator

from compress.verification.drift import Drift
from compress.verification.outcome import Model, Status, combined_status

_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")


class Variant(Model):
    """One version of the model on its way from original to shipped: a row of the comparison and a point of its plot.

    `metric` is the task's own metric (percent for rates), `latency_ms` a median at batch 1 with that number of
    `threads`, `speedup` how many times as fast as the reference it was: the median over rounds that alternate, which a
    busy machine does not bend as it does a ratio of medians. A `baseline` is the reference made smaller without
    edgepress's changes, such as its own int8 form.
    """

    name: str
    role: Literal["reference", "candidate", "baseline", "other"] = "other"
    bytes: int | None = Field(default=None, ge=0)
    parameters: int | None = Field(default=None, ge=0)
    metric: float | None = None
    latency_ms: float | None = Field(default=None, ge=0)
    threads: int | None = Field(default=None, ge=1)
    speedup: float | None = Field(default=None, gt=0)
    note: str = ""

    def gain(self, attribute: Literal["bytes", "latency_ms"], than: Variant) -> float | None:
        """How many times better this one is than another; None where that is not known."""
        if attribute == "latency_ms" and self.speedup and than.speedup:
            return self.speedup / than.speedup
        before, after = getattr(than, attribute), getattr(self, attribute)
        return before / after if before and after else None


class LatencyRow(Model):
    """A measured latency, with what it was measured on."""

    name: str
    runtime: str
    batch: int = Field(ge=1)
    median_ms: float = Field(ge=0)
    p95_ms: float | None = Field(default=None, ge=0)
    note: str = ""


class StageRow(Model):
    """One stage of the pipeline: the task's `metric` after it, and its `drop` against the original."""

    name: str
    status: str = ""
    metric: float | None = None
    drop: float | None = None
    low: float | None = None
    high: float | None = None
    seconds: float | None = Field(default=None, ge=0)
    note: str = ""


class BlockRow(Model):
    """How far one block's output moved: relative error |y - y'| / |y|, mean cosine, KL of attention rows in nats.

    `own_error` is the relative error of the block fed with the original's input: what it adds by itself.
    """

    name: str
    relative_error: float = Field(ge=0)
    own_error: float | None = Field(default=None, ge=0)
    cosine: float | None = None
    attention_kl: float | None = None


class ExtraCheck(Model):
    """A gate other than drift: parity of an export, chunked against whole, bytes of an engine."""

    name: str
    status: Status
    message: str


class Series(Model):
    """One line of a curve."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]

    @model_validator(mode="after")
    def _as_long(self) -> Series:
        if len(self.x) != len(self.y) or not self.x:
            raise ValueError(f"series {self.name!r} has {len(self.x)} x and {len(self.y)} y values")
        return self


class Curve(Model):
    """A line chart, such as latency per token against the tokens so far."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...] = Field(min_length=1)


class ReportData(Model):
    """Everything that a report shows. `verdict` follows from the drift and the other checks; it cannot be set.

    `pictures` (PNG, base64) and `texts` show the most changed examples, `sources` says where they are from, by sample
    index.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    edgepress: str
    model: str
    task: str
    target: str
    recipe: str
    drift: Drift | None = None
    checks: tuple[ExtraCheck, ...] = ()
    variants: tuple[Variant, ...] = ()
    timing: str = Field(default="", description="What the variants' latencies are of: the machine, the input")
    latency: tuple[LatencyRow, ...] = ()
    stages: tuple[StageRow, ...] = ()
    stage_samples: int | None = Field(default=None, ge=1, description="On how many samples the stages were measured")
    blocks: tuple[BlockRow, ...] = ()
    curves: tuple[Curve, ...] = ()
    pictures: dict[int, str] = Field(default_factory=dict)
    texts: dict[int, str] = Field(default_factory=dict)
    sources: dict[int, str] = Field(default_factory=dict)
    environment: dict[str, str] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @computed_field  # type: ignore[prop-decorator]
    @property
    def verdict(self) -> Status:
        """The worst status of drift and checks. A report without drift was not run, whatever else passed."""
        drift = self.drift.status if self.drift is not None else Status.NOT_RUN
        return combined_status([drift, *(check.status for check in self.checks)])

    @model_validator(mode="before")
    @classmethod
    def _verdict_is_derived(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if key != "verdict"} if isinstance(data, dict) else data

    @field_validator("pictures")
    @classmethod
    def _are_base64(cls, pictures: dict[int, str]) -> dict[int, str]:
        for index, text in pictures.items():
            if not _BASE64.fullmatch(text):
                raise ValueError(f"picture {index} is not base64")
        return pictures

    @property
    def headline(self) -> str:
        """One sentence under the verdict: the check that decided it, and the file that it is about."""
        for check in self.checks:
            if check.status is self.verdict and self.verdict is not Status.PASS:
                return f"{check.name}: {check.message}"
        if self.drift is None:
            return "The accuracy was not compared."
        judged = next((one.name for one in self.variants if one.role == "candidate" and one.name != one.role), None)
        return f"{judged}: {self.drift.gate.message}" if judged else self.drift.gate.message

    def to_json(self) -> str:
        """report.json. `from_json` gives an equal value back."""
        return self.model_dump_json(indent=2, by_alias=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> ReportData:
        """Read `to_json`'s text. Raises pydantic's ValidationError for anything else."""
        return cls.model_validate_json(text)
