"""What intervals say where nothing or little changed, and what copies of samples do to a gate.

    python -m benchmarks gate-unseen

writes benchmarks/results/gate_unseen.json: how far the interval of two equal sides reaches, how often a candidate
exactly at its bound passes where changes are rare or hit a rare class alone, and the same with samples repeated.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lab import record
from compress.verification.distinct import places_of_different
from compress.verification.estimate import Estimate, Sampling, estimate_drop, estimate_value
from compress.verification.gate import default_gate
from compress.verification.kinds.classes import Predictions
from compress.verification.kinds.embeddings import PairScores
from compress.verification.kinds.losses import SequenceLosses
from compress.verification.metrics import METRICS
from compress.verification.samples import Samples
from runtime.measuring.power import cpu_name

RESULT = Path(__file__).parents[1] / "results" / "gate_unseen.json"
SAMPLING = Sampling(resamples=1000)
ACCURACY = 0.9
Pair = tuple[Samples, Samples]
Make = Callable[[np.random.Generator, int], Pair]


def classifiers(prior: tuple[float, ...], rates: tuple[float, ...]) -> Make:
    """A classifier that is right in 90 %, and one that loses right answers at a rate of each class."""
    count = len(prior)

    def make(generator: np.random.Generator, samples: int) -> Pair:
        labels = generator.choice(count, samples, p=prior)
        right = generator.random(samples) < ACCURACY
        answers = np.where(right, labels, (labels + generator.integers(1, count, samples)) % count)
        lost = right & (generator.random(samples) < np.array(rates)[labels])
        moved = np.where(lost, (labels + generator.integers(1, count, samples)) % count, answers)
        one_hot = np.eye(count, dtype=np.float32)
        return Predictions(one_hot[answers], labels), Predictions(one_hot[moved], labels)

    return make


def embedders(rate: float) -> Make:
    """Scores that follow the gold, and the same with a share of them another pair's."""

    def make(generator: np.random.Generator, samples: int) -> Pair:
        true = generator.normal(size=samples)
        gold, scores = true + 0.6 * generator.normal(size=samples), true + 0.4 * generator.normal(size=samples)
        other = generator.normal(size=samples) + 0.4 * generator.normal(size=samples)
        moved = np.where(generator.random(samples) < rate, other, scores)
        return PairScores(scores, gold), PairScores(moved, gold)

    return make


def language_models(rate: float, everywhere: float) -> Make:
    """Losses that vary by text, and the same with all a little and a share of them much higher."""

    def make(generator: np.random.Generator, samples: int) -> Pair:
        tokens = generator.integers(50, 200, samples)
        per_token = np.maximum(1.25 + 0.2 * generator.normal(size=samples), 0.3)
        higher = everywhere * np.abs(generator.normal(size=samples))
        higher += (generator.random(samples) < rate) * np.abs(0.28 * generator.normal(size=samples))
        sides = (per_token * tokens, (per_token + higher) * tokens)
        return tuple(SequenceLosses(nll, tokens, 2 * tokens) for nll in sides)  # type: ignore[return-value]

    return make


def estimate(name: str, pair: Pair) -> Estimate:
    """The drop, or the value of a metric that compares."""
    metric = METRICS[name]
    if metric.compares:
        return estimate_value(metric, metric.rows(*pair), SAMPLING)
    return estimate_drop(metric, metric.rows(pair[0]), metric.rows(pair[1]), SAMPLING)


def equal_sides() -> list[dict[str, Any]]:
    """How far the interval of two equal sides reaches beyond 0, in the metric's unit (perplexity: percent)."""
    makes = {"top1": classifiers((1 / 3,) * 3, (0.0,) * 3), "spearman": embedders(0.0)}
    makes |= {"f1_macro": makes["top1"], "kl": makes["top1"], "perplexity": language_models(0.0, 0.0)}
    rows = []
    for samples in (54, 100, 400, 1000):
        row: dict[str, Any] = {"samples": samples}
        for name, make in sorted(makes.items()):
            found = estimate(name, make(np.random.default_rng(samples), samples))
            assert found.interval is not None
            share = 100 / found.reference if name == "perplexity" and found.reference else 1.0
            row[name] = round(share * found.interval.high, 5)
        rows.append(row)
    return rows


def at_the_bound(simulations: int) -> list[dict[str, Any]]:
    """Candidates whose true drop is the bound: every interval that ends below it is a false pass."""
    third, tenth = (0.34, 0.33, 0.33), (0.1,) * 10
    cases: list[tuple[str, int, str, Make]] = [
        ("f1_macro", 54, "3 % of every class lost", classifiers(third, (0.03,) * 3)),
        ("f1_macro", 200, "1.5 % of every class lost", classifiers(third, (0.015,) * 3)),
        ("f1_macro", 200, "1.5 % of each of 10 classes lost", classifiers(tenth, (0.015,) * 10)),
        ("f1_macro", 200, "15 % of a class of 10 % lost", classifiers((0.45, 0.45, 0.1), (0.0, 0.0, 0.15))),
        ("f1_macro", 400, "10 % of a class of 3 % lost", classifiers((0.97, 0.03), (0.0, 0.1))),
        ("f1_macro", 1000, "2 % of each of 10 classes lost", classifiers(tenth, (0.02,) * 10)),
        ("spearman", 60, "5 % of scores another's", embedders(0.05)),
        ("spearman", 300, "1 % of scores another's", embedders(0.01)),
        ("spearman", 300, "10 % of scores another's", embedders(0.1)),
        ("perplexity", 60, "5 % of texts worse", language_models(0.05, 0.0)),
        ("perplexity", 300, "1 % of texts worse", language_models(0.01, 0.0)),
        ("perplexity", 100, "all texts a little worse", language_models(0.0, 0.02)),
    ]
    rows = []
    for name, samples, what, make in cases:
        whole = make(np.random.default_rng(10**6), 500_000)
        metric = METRICS[name]
        true = metric.drop(metric.value(whole[0]), metric.value(whole[1]))
        generator, passes = np.random.default_rng(samples), 0
        for _ in range(simulations):
            interval = estimate(name, make(generator, samples)).interval
            assert interval is not None
            passes += interval.high < true
        row = {"metric": name, "samples": samples, "candidate": what, "true_drop": round(true, 3)}
        rows.append({**row, "false_pass_rate": passes / simulations})
        print(rows[-1], file=sys.stderr)
    return rows


def repeated(simulations: int) -> list[dict[str, Any]]:
    """2,400 samples of which each content is there several times; true drop 1.1 points, bound 1 point of top-1."""
    gate, rows = default_gate("top1", 1.0), []
    make = classifiers((1 / 3,) * 3, (0.011 / ACCURACY,) * 3)
    for copies in (1, 2, 10, 40):
        generator, passes = np.random.default_rng(copies), {"counted_once": 0, "all_counted": 0}
        for _ in range(simulations):
            reference, candidate = make(generator, 2400 // copies)
            places = np.repeat(np.arange(len(reference)), copies)
            reference, candidate = reference.take(places), candidate.take(places)
            passes["all_counted"] += bool(gate.judge(reference, candidate))
            once = places_of_different([(int(place),) for place in places], reference)
            passes["counted_once"] += bool(gate.judge(reference.take(once), candidate.take(once)))
        rows.append({"copies": copies, **{name: count / simulations for name, count in passes.items()}})
        print(rows[-1], file=sys.stderr)
    return rows


def main() -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=400)
    args = parser.parse_args()
    result = {
        "command": f"python -m benchmarks gate-unseen --simulations {args.simulations}",
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("numpy", "scipy")},
        "equal_sides": equal_sides(),
        "at_the_bound": at_the_bound(args.simulations),
        "repeated": repeated(args.simulations),
    }
    record.save(RESULT, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
