"""How often does a search promise too much? Simulated searches, with candidates of known drops, gated as a search does.

    python -m benchmarks search-promises

writes benchmarks/results/search-promises.json. A search gates up to three candidates until one passes. Counted is how
often the one that passes has a drop of the limit or more: with the confidence divided as `compress.search` divides it,
and with each gate at the full confidence. `at the limit`: all three lose exactly what is allowed, the worst case.
`mixed`: drops are spread around the limit and the candidates are ordered by what 1,024 held-out samples say of them.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lab import record
from compress.search.gating import SPENT, confidences
from compress.verification.statistics import noninferiority_p, paired_rate_interval

RESULT = Path(__file__).parents[1] / "results" / "search-promises.json"
SEARCHES, MAX_DROP, CONFIDENCE, HELD_OUT = 1000, 1.0, 0.95, 1024


def rates(kind: str, draw: np.random.Generator) -> np.ndarray:
    """Rates of lost and won answers of the candidates (3, 2)."""
    count = len(SPENT)
    wins = draw.uniform(0.005, 0.02, count)
    drops = np.full(count, MAX_DROP / 100) if kind == "at the limit" else draw.uniform(0, 0.025, count)
    return np.stack([wins + drops, wins], axis=1)


def search(kind: str, samples: int, levels: list[float], draw: np.random.Generator) -> str:
    """`true` or `false` promise of one search, or `none`."""
    every = rates(kind, draw)
    if kind == "mixed":
        differ = [draw.binomial(HELD_OUT, lost + won) for lost, won in every]
        every = every[np.argsort(differ, kind="stable")]
    for (lost, won), confidence in zip(every, levels, strict=True):
        losses, wins, _ = draw.multinomial(samples, [lost, won, 1 - lost - won])
        if passes(int(losses), int(wins), samples, confidence):
            return "true" if 100 * (lost - won) < MAX_DROP - 1e-9 else "false"
    return "none"


@cache
def passes(losses: int, wins: int, samples: int, confidence: float) -> bool:
    """Whether the gate passes. Its interval reaches at least as far as that of the score test, which is asked first as
    it costs less."""
    if noninferiority_p(losses, wins, samples, MAX_DROP / 100) > (1 - confidence) / 2:
        return False
    return 100 * paired_rate_interval(losses, wins, samples, confidence).high <= MAX_DROP


def measured(kind: str, samples: int, policy: str, levels: list[float]) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    outcomes = [search(kind, samples, levels, draw) for _ in range(SEARCHES)]
    return {
        "candidates": kind,
        "samples": samples,
        "policy": policy,
        "false_promises": outcomes.count("false") / SEARCHES,
        "kept_promises": outcomes.count("true") / SEARCHES,
        "no_promise": outcomes.count("none") / SEARCHES,
    }


def main() -> None:
    policies = {"divided": confidences(CONFIDENCE), "each at full confidence": [CONFIDENCE] * len(SPENT)}
    rows = [
        measured(kind, samples, policy, levels)
        for kind in ("at the limit", "mixed")
        for samples in (500, 2000, 10_000)
        for policy, levels in policies.items()
    ]
    document = {
        "command": "python -m benchmarks search-promises",
        "seed": 0,
        "searches": SEARCHES,
        "max_drop": MAX_DROP,
        "confidence": CONFIDENCE,
        "confidences": {name: [round(one, 6) for one in levels] for name, levels in policies.items()},
        "rows": rows,
    }
    record.save(RESULT, document)
    json.dump(rows, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
