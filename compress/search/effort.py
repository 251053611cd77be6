"""How much is tried in the time that is given. The same time gives the same effort, so that a search can be resumed."""

from __future__ import annotations

from dataclasses import dataclass

#: Part of the time that candidates heal in; the rest is for trials, times and the gate.
_HEALING = 0.5


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
    """What fits into this time on two cores."""
    seconds = hours * 3600
    healing = seconds * _HEALING
    if seconds < 180:
        return Effort(1, 0, 64, 5, 0, 0, healing)
    if seconds < 600:
        return Effort(2, 0, 128, 10, 4, 3, healing)
    if seconds < 2700:
        return Effort(4, 1, 256, 25, 16, 8, healing)
    if seconds < 10_000:
        return Effort(6, 1, 256, 25, 24, 10, healing)
    return Effort(15, 4, 512, 50, 32, 16, healing)
