"""Is a share of events larger than what is allowed? Asked after every event, as often as one likes, and answered as
soon as the answer is clear.

The evidence against "the share is at most p0" after n events of which k count is a mixture of likelihood ratios

    E(n, k) = mean over j of (p_j / p0)^k ((1 - p_j) / (1 - p0))^(n - k),  p_j > p0,

a supermartingale under every share of at most p0. So the probability that it ever reaches 1 / level is at most the
level (Ville's inequality), however often one looks and whenever one stops. With p_j < p0 the same holds the other way
round.

Reference: Ramdas, Grünwald, Vovk, Shafer, "Game-theoretic statistics and safe anytime-valid inference" (2023),
section 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

#: Probability of a wrong verdict, over a whole life, of each of the two.
LEVEL = 0.01
#: Odds of the alternatives, as multiples of those of what is allowed.
_ABOVE = (1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
_BELOW = (0.03, 0.1, 0.2, 0.33, 0.5, 0.67)


@dataclass(frozen=True)
class Share:
    """`counted` of `events`, held against `allowed`, a share between 0 and 1."""

    allowed: float
    events: int = 0
    counted: int = 0

    def after(self, counts: bool) -> Share:
        """With one event more."""
        return Share(self.allowed, self.events + 1, self.counted + counts)

    @property
    def verdict(self) -> Literal["above", "within", "open"]:
        """`above`: more than is allowed; `within`: less; `open`: not known yet. Each is wrong with a probability of at
        most LEVEL over all the looks that one ever takes at it."""
        least = -math.log(LEVEL)
        if self._evidence(_ABOVE) >= least:
            return "above"
        return "within" if self._evidence(_BELOW) >= least else "open"

    def _evidence(self, multiples: tuple[float, ...]) -> float:
        """log E of alternatives with these multiples of the allowed odds."""
        odds = self.allowed / (1 - self.allowed)
        others = [multiple * odds / (1 + multiple * odds) for multiple in multiples]
        logs = [
            self.counted * math.log(other / self.allowed)
            + (self.events - self.counted) * math.log((1 - other) / (1 - self.allowed))
            for other in others
        ]
        top = max(logs)
        return top + math.log(sum(math.exp(one - top) for one in logs) / len(logs))
