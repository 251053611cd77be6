"""Pairs of candidates with a known drop, drawn by a seed, and what the gate says of them; processes share the work."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial

import numpy as np

from compress.verification.gate import Gate
from compress.verification.predictions import Predictions, Samples, SequenceLosses
from compress.verification.sequential import SequentialTest
from compress.verification.statistics import paired_rate_interval

CLASSES = 10
PERPLEXITY = 20.0
#: Simulations that share a seed, and a process.
PART = 20
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


def pass_rate(pool: Executor, gate: Gate, make: Callable[[np.random.Generator], Pair], count: int, seed: int) -> float:
    """Share of `count` simulated pairs that the gate passes."""
    return sum(pool.map(partial(passes, gate, make, seed), *parts(count))) / count


def passes(gate: Gate, make: Callable[[np.random.Generator], Pair], seed: int, part: int, count: int) -> int:
    generator = np.random.default_rng((seed, part))
    return sum(bool(gate.judge(*make(generator))) for _ in range(count))


def parts(count: int) -> tuple[range, list[int]]:
    """Simulations in parts with seeds of their own, the same however many processes share them: numbers and sizes."""
    sizes = [min(PART, count - start) for start in range(0, count, PART)]
    return range(len(sizes)), sizes


def early(test: SequentialTest, loss: float, win: float, part: int, count: int) -> tuple[int, int]:
    """How many early verdicts differ from the full one, and how many samples they saw."""
    generator = np.random.default_rng((round(1e5 * loss), part))
    differing, seen_total = 0, 0
    for _ in range(count):
        step = generator.choice([1, -1, 0], test.samples, p=[loss, win, 1 - loss - win]).astype(np.int8)
        losses, wins = np.cumsum(step == 1), np.cumsum(step == -1)
        full = paired_rate_interval(int(losses[-1]), int(wins[-1]), test.samples).high <= test.margin
        for seen in test.look_points():
            early = test.verdict(seen, int(losses[seen - 1]), int(wins[seen - 1]))
            if early is not None:
                break
        differing += early != full
        seen_total += seen
    return differing, seen_total
