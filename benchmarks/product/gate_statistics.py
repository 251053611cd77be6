"""Does the gate keep its promises? Simulated candidates of known drop, judged by the gate itself.

    python -m benchmarks gate-statistics [--simulations 1000] [--workers 1]

writes benchmarks/results/gate_statistics.json: how often a candidate exactly at its bound passes (at most 5 % allowed),
how often one that lost nothing passes (as the power analysis says), and how often stopping early changes a verdict.
Everything is seeded; the figures are the same on every machine up to the rounding of its mathematics library.
"""

from __future__ import annotations

import argparse
import math
import sys
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.lab import record
from benchmarks.lab.simulated import classifiers, early, language_models, parts, pass_rate
from compress.verification.gate import default_gate
from compress.verification.power import pass_probability, required_samples
from compress.verification.sequential import SequentialTest

MAX_DROP = 1.0  # points of top-1, percent of perplexity
RESULT = Path(__file__).parents[1] / "results" / "gate_statistics.json"


def boundary(pool: Executor, simulations: int) -> list[dict[str, Any]]:
    """Candidates whose true drop is exactly the bound: every pass is a false one."""
    rows: list[dict[str, Any]] = []
    gate = default_gate("top1", MAX_DROP)
    for samples, discordance in ((500, 0.01), (872, 0.03), (2000, 0.02), (2000, 0.1), (10_000, 0.01), (10_000, 0.04)):
        loss, win = (discordance + MAX_DROP / 100) / 2, (discordance - MAX_DROP / 100) / 2
        rate = pass_rate(
            pool,
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
        rate = pass_rate(pool, gate, partial(language_models, sequences=samples, drop=MAX_DROP), simulations, samples)
        rows.append({"metric": "perplexity", "samples": samples, "true_drop": MAX_DROP, "false_pass_rate": rate})
    return rows


def power(pool: Executor, simulations: int) -> list[dict[str, Any]]:
    """Candidates that lost nothing, on as many samples as the power analysis asks for."""
    rows = []
    gate = default_gate("top1", MAX_DROP)
    for discordance in (0.01, 0.02, 0.04):
        for wanted in (0.8, 0.95):
            samples = required_samples(MAX_DROP / 100, discordance, wanted)
            half = discordance / 2
            rate = pass_rate(
                pool,
                gate,
                partial(classifiers, samples=samples, loss_rate=half, win_rate=half),
                simulations,
                samples,
            )
            row = {"metric": "top1", "discordance": discordance, "wanted_power": wanted, "samples": samples}
            rows.append({**row, "pass_rate": rate, "score_test_by_enumeration": round(
                pass_probability(samples, half, half, MAX_DROP / 100), 4)})  # fmt: skip
    return rows


def sequential(pool: Executor, simulations: int) -> list[dict[str, Any]]:
    """Early verdicts against the verdict on all 10,000 samples."""
    rows = []
    for loss, win in ((0.005, 0.005), (0.012, 0.008), (0.02, 0.01), (0.03, 0.01), (0.06, 0.01)):
        test = SequentialTest(10_000, MAX_DROP / 100, error=0.01)
        each = list(pool.map(partial(early, test, loss, win), *parts(simulations)))
        differing, seen = (sum(column) for column in zip(*each, strict=True))
        row = {"samples": test.samples, "true_drop": round(100 * (loss - win), 2), "allowed_error": test.error}
        share = round(seen / simulations / test.samples, 3)
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
    parser.add_argument("--workers", type=int, default=1, help="processes that share the simulations")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    count = arguments.simulations
    with ProcessPoolExecutor(arguments.workers) as pool:
        result: dict[str, Any] = {
            "command": "python -m benchmarks gate-statistics" + ("" if count == 1000 else f" --simulations {count}"),
            "simulations": count,
            "gate": {"max_drop": MAX_DROP, "confidence": 0.95},
            "boundary": boundary(pool, count),
            "power": power(pool, count),
            "sequential": sequential(pool, max(1, count // 5)),
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
