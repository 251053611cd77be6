"""How much is tried in the time that is given. The same time gives the same effort, so that a search can be resumed."""

from __future__ import annotations

from dataclasses import dataclass

#: Part of the time that candidates heal in; the rest is for trials, times and the gate.
_HEALING = 0.6


@dataclass(frozen=True)
class Effort:
    """`choices` per half of a layer and `wholes` per property of the whole model, each fitted on `samples` and healed
    for `trial_steps` alone; `pairs` of them tried together; `whole_models` that put the prediction of times right;
    `healing_seconds` of the rungs."""

    choices: int
    wholes: int
    samples: int
    trial_steps: int
    pairs: int
    whole_models: int
    healing_seconds: float


def effort(hours: float) -> Effort:
    """What fits into so many hours of two cores."""
    seconds = hours * 3600
    if seconds < 60:
        return Effort(1, 0, 64, 2, 0, 0, seconds * _HEALING)
    if seconds < 600:
        return Effort(4, 1, 128, 10, 4, 3, seconds * _HEALING)
    if seconds < 2700:
        return Effort(8, 2, 256, 25, 16, 8, seconds * _HEALING)
    return Effort(15, 4, 512, 50, 32, 16, seconds * _HEALING)
