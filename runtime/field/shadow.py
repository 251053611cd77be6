"""Another bundle beside the one that answers: a share of the inputs goes to it too, and what both say is kept."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.answers import Answerer, Wanted
from runtime.answers.embedding import VECTOR
from runtime.field.record import Record
from runtime.field.sequential import Share
from runtime.session import Session
from runtime.watch import Result
from targets.errors import EdgepressError, GateFailed

#: Cosine from which on two embeddings count as the same.
SAME = 0.99


@dataclass
class Shadow:
    """The other bundle: `every` n-th input goes to it. `share`: how often the two differed, and how often they may."""

    session: Session
    answerer: Answerer
    record: Record
    share: Share
    every: int = 20
    seen: int = field(default=0, init=False)
    told: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        """Go on where the record ends, if it is of the same two and the same allowance."""
        last = self.record.last or {}
        if last.get("shadow") == self._name and last.get("allowed") == self.share.allowed:
            self.share = Share(self.share.allowed, int(last.get("shadowed", 0)), int(last.get("differing", 0)))

    def after(
        self, inputs: Sequence[Any], results: Sequence[Result | EdgepressError], ms: float, wanted: Wanted
    ) -> None:
        """Ask the other bundle about an input of the share, alone, and put a line into the record; that the other fails
        counts as a difference."""
        for place, (one, result) in enumerate(zip(inputs, results, strict=True)):
            self.seen += 1
            if not isinstance(result, EdgepressError) and (self.seen - 1) % self.every == 0:
                self._compare(one, result, ms, wanted.at(place))

    def numbers(self) -> dict[str, float]:
        """For metrics: how many inputs the shadow saw, how many it answered otherwise, and whether that is too many."""
        share = self.share
        return {
            "shadow_inputs": share.events,
            "shadow_differing": share.counted,
            "shadow_above_allowed": float(share.verdict == "above"),
        }

    def finish(self) -> None:
        """Raises GateFailed if the two were found to differ by more than is allowed."""
        if self.share.verdict == "above":
            raise GateFailed(f"{self._name} differs: {self.describe()}; see {self.record.path}")

    def describe(self) -> str:
        """'31 of 400 inputs answered otherwise, 0.05 allowed: above'."""
        share = self.share
        return (
            f"{share.counted} of {share.events} inputs answered otherwise, {share.allowed:g} allowed: {share.verdict}"
        )

    @property
    def _name(self) -> str:
        return str(self.session.bundle.source)

    def _compare(self, one: Any, result: Result, took: float, wanted: Wanted) -> None:
        began = time.perf_counter()
        try:
            other: Result | EdgepressError = self.answerer.answer(self.session, [one], wanted)[0]
        except EdgepressError as error:
            other = error
        shadow_took = (time.perf_counter() - began) * 1e3
        same = not isinstance(other, EdgepressError) and agree(result, other)
        self.share = self.share.after(not same)
        self.record.append(
            {
                "time": round(time.time(), 3),
                "shadow": self._name,
                "input": str(getattr(one, "name", one))[:200],
                "same": same,
                "ms": round(took, 3),
                "shadow_ms": round(shadow_took, 3),
                "confidence": confidence(result),
                "shadow_confidence": None if isinstance(other, EdgepressError) else confidence(other),
                **({"error": str(other)[:200]} if isinstance(other, EdgepressError) else {}),
                "shadowed": self.share.events,
                "differing": self.share.counted,
                "allowed": self.share.allowed,
                "verdict": self.share.verdict,
            }
        )
        if self.share.verdict == "above" and not self.told:
            self.told = True
            print(f"warning: the shadow {self._name} differs: {self.describe()}", file=sys.stderr, flush=True)


def agree(one: Result, other: Result) -> bool:
    """Whether two answers say the same: the likeliest label, an embedding's direction, else all of it."""
    if isinstance(first := _top(one), dict) and isinstance(second := _top(other), dict):
        return bool(first.get("label") == second.get("label"))
    vectors = one.get(VECTOR), other.get(VECTOR)
    if all(isinstance(vector, list) for vector in vectors):
        return _cosine(*vectors) >= SAME  # type: ignore[arg-type]
    return one == other


def confidence(result: Result) -> float | None:
    """The probability of the likeliest label, where there is one."""
    top = _top(result)
    return float(top["probability"]) if isinstance(top, dict) and "probability" in top else None


def _top(result: Result) -> Any:
    top = result.get("top")
    return top[0] if isinstance(top, list) and top else None


def _cosine(one: list[float], other: list[float]) -> float:
    if len(one) != len(other):
        return -1.0
    product = sum(a * b for a, b in zip(one, other, strict=True))
    norms = math.sqrt(sum(a * a for a in one) * sum(b * b for b in other))
    return product / norms if norms else float(one == other)
