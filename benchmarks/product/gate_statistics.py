"""Does the gate keep its promises? Simulated candidates of known drop, judged by the gate itself.

    python -m benchmarks gate-statistics

writes benchmarks/results/gate_statistics.json: how often a candidate exactly at its bound passes (at most 5 % allowed),
how often one that lost nothing passes (as the power analysis says), and how often stopping early changes a verdict.
Everything is seeded; the figures are the same on every machine up to the rounding of its mathematics library.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lab import record
from compress.verification.gate import Gate, default_gate
from compress.verification.power import pass_probability, required_samples
from compress.verification.predictions import Predictions, Samples, SequenceLosses
from compress.verification.sequential import SequentialTest
from compress.verification.statistics import paired_rate_interval

CLASSES = 10
MAX_DROP = 1.0  # points of top-1, percent of perplexity
PERPLEXITY = 20.0
RESULT = Path(__file__).parents[1] / "results" / "gate_statistics.json"
Pair = tuple[Samples, Samples]


def classifiers(generator: np.random.Generator, samples: int, loss_rate: float, win_rate: float) -> Pair:
    """Two classifiers, each sample lost and won with the given probabilities."""
    labels = generator.integers(0, CLASSES, samples)
    rates = [loss_rate, win_rate, 0.1, 0.9 - loss_rate - win_rate]
    outcome = generator.choice(4, samples, p=rates)  # lost, won, both wrong, both right
    wrong = (labels + 1) % CLASSES
    sides = [np.where(np.isin(outcome, right), labels, wrong) for right in ((0, 3), (1, 3))]
    one_hot = np.eye(CLASSES, dtype=np.float32)
    return Predictions(one_hot[sides[0]], labels), Predictions(one_hot[sides[1]], labels)


def language_models(generator: np.random.Generator, sequences: int, drop: float) -> Pair:
    """Two language models, the second with a true perplexity `drop` percent higher; losses vary and are skewed."""
    tokens = np.full(sequences, 64)
    hardness = generator.gamma(9.0, 1 / 9.0, sequences)
    noise = generator.normal(0, 0.05, sequences)
    reference = math.log(PERPLEXITY) * hardness * tokens
    candidate = (math.log(PERPLEXITY * (1 + drop / 100)) * hardness + noise) * tokens
    return SequenceLosses(reference, tokens, 4 * tokens), SequenceLosses(candidate, tokens, 4 * tokens)


def pass_rate(gate: Gate, make: Callable[[np.random.Generator], Pair], simulations: int, seed: int) -> float:
    """Share of simulated pairs that the gate passes."""
    generator = np.random.default_rng(seed)
    return sum(bool(gate.judge(*make(generator))) for _ in range(simulations)) / simulations


def boundary(simulations: int) -> list[dict[str, Any]]:
    """Candidates whose true drop is exactly the bound: every pass is a false one."""
    rows: list[dict[str, Any]] = []
    gate = default_gate("top1", MAX_DROP)
    for samples, discordance in ((500, 0.01), (872, 0.03), (2000, 0.02), (2000, 0.1), (10_000, 0.01), (10_000, 0.04)):
        loss, win = (discordance + MAX_DROP / 100) / 2, (discordance - MAX_DROP / 100) / 2
        rate = pass_rate(
            gate,
            partial(classifiers, samples=samples, loss_rate=loss, win_rate=win),
            simulations,
            samples,
        )
        exact = pass_probability(samples, loss, win, MAX_DROP / 100)
        row = {"metric": "top1", "samples": samples, "discordance": discordance, "true_drop": MAX_DROP}
        rows.append({**row, "false_pass_rate": rate, "score_test_by_enumeration": round(exact, 4)})
    gate = default_gate("perplexity", MAX_DROP)
    for samples in (60, 250, 1000):
        rate = pass_rate(gate, partial(language_models, sequences=samples, drop=MAX_DROP), simulations, samples)
        rows.append({"metric": "perplexity", "samples": samples, "true_drop": MAX_DROP, "false_pass_rate": rate})
    return rows


def power(simulations: int) -> list[dict[str, Any]]:
    """Candidates that lost nothing, on as many samples as the power analysis asks for."""
    rows = []
    gate = default_gate("top1", MAX_DROP)
    for discordance in (0.01, 0.02, 0.04):
        for wanted in (0.8, 0.95):
            samples = required_samples(MAX_DROP / 100, discordance, wanted)
            half = discordance / 2
            rate = pass_rate(
                gate,
                partial(classifiers, samples=samples, loss_rate=half, win_rate=half),
                simulations,
                samples,
            )
            row = {"metric": "top1", "discordance": discordance, "wanted_power": wanted, "samples": samples}
            rows.append({**row, "pass_rate": rate, "score_test_by_enumeration": round(
                pass_probability(samples, half, half, MAX_DROP / 100), 4)})  # fmt: skip
    return rows


def sequential(simulations: int) -> list[dict[str, Any]]:
    """Early verdicts against the verdict on all 10,000 samples."""
    rows = []
    for loss, win in ((0.005, 0.005), (0.012, 0.008), (0.02, 0.01), (0.03, 0.01), (0.06, 0.01)):
        test = SequentialTest(10_000, MAX_DROP / 100, error=0.01)
        generator = np.random.default_rng(round(1e5 * loss))
        differing, seen_total = 0, 0
        for _ in range(simulations):
            step = generator.choice([1, -1, 0], test.samples, p=[loss, win, 1 - loss - win]).astype(np.int8)
            losses, wins = np.cumsum(step == 1), np.cumsum(step == -1)
            full = paired_rate_interval(int(losses[-1]), int(wins[-1]), test.samples).high <= test.margin
            for seen in test.look_points():
                early = test.verdict(seen, int(losses[seen - 1]), int(wins[seen - 1]))
                if early is not None:
                    break
            differing += early != full
            seen_total += seen
        row = {"samples": test.samples, "true_drop": round(100 * (loss - win), 2), "allowed_error": test.error}
        share = round(seen_total / simulations / test.samples, 3)
        rows.append({**row, "verdict_changed_rate": differing / simulations, "mean_share_of_samples_seen": share})
    return rows


def broken_promises(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that break a promise: over 5 % false passes; power or changed verdicts off by over 3 standard errors.

    The bootstrap end, which the gate also asks for, may cost up to 3 points of the power of the score test alone.
    """

    def error(rate: float, simulations: int) -> float:
        return 3 * math.sqrt(rate * (1 - rate) / simulations)

    count = result["simulations"]
    broken = [row for row in result["boundary"] if row["false_pass_rate"] > 0.05]
    for row in result["power"]:
        expected = row["score_test_by_enumeration"]
        if row["pass_rate"] < expected - 0.03 - error(expected, count):
            broken.append(row)
    for row in result["sequential"]:
        allowed = row["allowed_error"]
        if row["verdict_changed_rate"] > allowed + error(allowed, max(1, count // 5)):
            broken.append(row)
    return broken


def main() -> int:
    """Run all simulations, write the result, and return 1 if a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    count = arguments.simulations
    result: dict[str, Any] = {
        "command": "python -m benchmarks gate-statistics" + ("" if count == 1000 else f" --simulations {count}"),
        "simulations": count,
        "gate": {"max_drop": MAX_DROP, "confidence": 0.95},
        "boundary": boundary(count),
        "power": power(count),
        "sequential": sequential(max(1, count // 5)),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in ("edgepress", "numpy", "scipy")}},
        "hardware": {"machine": platform.machine(), "cpus": os.cpu_count(), "system": platform.system()},
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    record.save(arguments.out, result)
    broken = broken_promises(result)
    for row in broken:
        print(f"broken: {row}", file=sys.stderr)
    print(f"wrote {arguments.out}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
