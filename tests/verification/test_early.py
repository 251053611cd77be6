"""Stopping early: the verdict of all samples, from fewer of them, and never a pass of what could not be judged."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.verification.early import Decision, EarlyStop
from compress.verification.gate import Gate, parse
from compress.verification.outcome import Status
from compress.verification.predictions import Predictions

TOP1 = {"metric": "top1", "max_drop": 1.0}


def gate(*checks: dict[str, object], error: float = 0.0, least: int = 50) -> Gate:
    return parse({"stop_early": error, "min_samples": least, "check": list(checks or (TOP1,))})


def pair(samples: int, losses: int, wins: int, seed: int = 0) -> tuple[Predictions, Predictions]:
    """Samples in random order, of which `losses` are lost and `wins` won; a tenth is wrong on both sides."""
    order = np.random.default_rng(seed).permutation(samples)
    labels = np.arange(samples) % 4
    was, now = order >= samples // 10, order >= samples // 10
    was[order >= samples - wins] = False
    now[(order >= samples - wins - losses) & (order < samples - wins)] = False
    sides = [np.eye(4, dtype=np.float32)[(labels + ~right) % 4] for right in (was, now)]
    return Predictions(sides[0], labels), Predictions(sides[1], labels)


def stopped(gate: Gate, reference: Predictions, candidate: Predictions) -> Decision | None:
    test = EarlyStop(gate, len(reference))
    for seen in test.look_points():
        if decision := test.decide(reference.take(np.arange(seen)), candidate.take(np.arange(seen))):
            return decision
    return None


@given(st.integers(0, 120), st.integers(0, 60), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_logical_certainty_never_differs_from_all_samples(losses: int, wins: int, seed: int) -> None:
    reference, candidate = pair(4000, losses, wins, seed)
    decision = stopped(gate(), reference, candidate)
    full = bool(gate().judge(reference, candidate))
    assert decision is None or decision.passes[0] == full


@pytest.mark.parametrize(("losses", "status"), [(400, Status.FAIL), (2, Status.PASS)])
def test_a_clear_verdict_comes_before_half_of_the_samples(losses: int, status: Status) -> None:
    reference, candidate = pair(10_000, losses, 2)
    decision = stopped(gate(error=0.001), reference, candidate)
    assert decision is not None and decision.seen <= 5000
    seen = np.arange(decision.seen)
    result = decision.settle(gate(error=0.001).judge(reference.take(seen), candidate.take(seen)))
    assert result.status is status
    assert f"stopped after {decision.seen:,} of 10,000 samples" in result.message


def test_a_gate_with_checks_that_are_never_certain_stops_only_to_fail() -> None:
    both = gate(TOP1, {"metric": "kl", "max_value": 10.0}, error=0.001)
    assert stopped(both, *pair(10_000, 2, 2)) is None
    decision = stopped(both, *pair(10_000, 400, 2))
    assert decision is not None and decision.passes == {0: False}


def test_an_error_stays_an_error_and_broken_answers_are_never_certain() -> None:
    reference, candidate = pair(4000, 0, 0)
    logits = candidate.logits.copy()
    logits[0, 0] = np.nan
    broken = Predictions(logits, candidate.labels)
    assert stopped(gate(error=0.01), reference, broken) is None
    errors = gate().judge(reference, broken)
    assert Decision(2000, 4000, 0.0, {0: True}).settle(errors).status is Status.ERROR


def test_too_few_samples_are_never_enough() -> None:
    assert stopped(gate(error=0.01, least=5000), *pair(4000, 0, 0)) is None
    with pytest.raises(ValueError, match="does not allow"):
        EarlyStop(parse({"check": [TOP1]}), 100)
