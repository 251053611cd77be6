"""Successive halving: many candidates heal for a short while, the better ones for longer, the last ones for longest.

Who is promoted is decided on the better end of a paired interval, and a wild card or two come along, since rankings
flip once models are healed. Sources: Jamieson and Talwalkar 2016 (arXiv 1502.07943) for the halving; the flips are
those that Puzzle's guide reports.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from compress.search.front import Candidate

#: Normal quantile of the intervals that decide on promotions, two-sided 90 %.
_Z = 1.645
#: Seconds that a candidate costs beside its healing: fits, export, quantizing, scoring.
OVERHEAD = 20.0
#: Least and most steps of the rungs; the last takes whatever time is left.
_STEPS = ((20, 100), (60, 600), (120, 5000))
_SHARES = (0.35, 0.3, 0.35)


#: What a scored candidate is ordered by, less is better, if its drift were so much.
Worth = Callable[["Scored", float], float]


@dataclass(frozen=True)
class Rung:
    """`count` candidates, each healed for `steps`; `wild` of them are drawn."""

    count: int
    steps: int
    wild: int


@dataclass(frozen=True)
class Scored:
    """A candidate after healing: `agreement` with the original, `drift` and the `drifts` of samples, of the file that
    ships and has `bytes`. All on held-out calibration samples."""

    candidate: Candidate
    steps: int
    agreement: float
    drift: float
    drifts: tuple[float, ...]
    bytes: int

    @property
    def text(self) -> str:
        """In a few words."""
        return f"{self.agreement:.2%}, {self.candidate.ms:.3g} ms predicted, {self.bytes / 1e6:.3g} MB"


def rungs(seconds: float, step_seconds: float) -> list[Rung]:
    """What fits into so much time, where a step of healing takes `step_seconds`. The same times give the same rungs."""
    plan = []
    first = max(1, min(16, int(seconds * _SHARES[0] / (OVERHEAD + _STEPS[0][0] * step_seconds))))
    counts = [first] if first == 1 else [first, max(1, round(first * 0.4))]
    counts += [max(1, round(first / 8))] if first > 4 else []
    shares = _SHARES[: len(counts)] if len(counts) > 1 else (1.0,)
    for place, (count, share) in enumerate(zip(counts, shares, strict=True)):
        least, most = _STEPS[place]
        time = seconds * share / sum(shares) / count - OVERHEAD
        steps = int(max(least, time / step_seconds))
        plan.append(Rung(count, steps if place == len(counts) - 1 else min(steps, most), _wild(count)))
    return plan


def _wild(count: int) -> int:
    return 2 if count >= 6 else 1 if count >= 3 else 0


def promoted(scored: Sequence[Scored], count: int, wild: int, seed: int, worth: Worth) -> list[Scored]:
    """Those that go on: the best by `worth` (less is better), given the benefit of a paired interval against the best,
    then wild cards drawn from the rest."""
    if not scored:
        return []
    best = min(scored, key=lambda one: worth(one, one.drift))
    ranked = sorted(scored, key=lambda one: (worth(one, one.drift - _benefit(one, best)), worth(one, one.drift)))
    kept = ranked[: max(1, count - wild)]
    rest = [one for one in ranked if one not in kept]
    drawn = np.random.default_rng(seed).permutation(len(rest))[: max(0, count - len(kept))]
    return [*kept, *(rest[place] for place in sorted(drawn.tolist()))]


def _benefit(one: Scored, best: Scored) -> float:
    """Half the width of the interval of the difference of two drifts on the same samples; 0 where there is none."""
    apart = np.array(one.drifts) - np.array(best.drifts) if len(one.drifts) == len(best.drifts) else np.zeros(0)
    return _Z * float(apart.std(ddof=1)) / math.sqrt(len(apart)) if len(apart) > 1 else 0.0
