"""How many samples a gate needs before it can tell, and what it can tell with the samples there are.

All but the last concerns the paired-rate gate: it passes when the score interval of the drop ends below the margin.
Rates, margins and drops are fractions here.
"""

from __future__ import annotations

import math

import numpy as np

from compress.verification.statistics import critical_value, tango_statistic


def required_samples(drop: float, discordance: float, power: float = 0.8, confidence: float = 0.95) -> int:
    """Samples with which a candidate that lost nothing passes a gate of `drop` with probability `power`.

    `discordance` is the share of samples on which exactly one side is right. Normal approximation with the null
    variance at the restricted maximum-likelihood estimate, as the gate's own statistic has it (Tango 1998).
    Raises ValueError outside 0 < drop < 1, 0 <= discordance <= 1, 0 < power < 1.
    """
    from scipy.special import ndtri

    if not (0 < drop < 1 and 0 <= discordance <= 1 and 0 < power < 1):
        raise ValueError(f"drop {drop}, discordance {discordance}, power {power}")
    linear = 2 * drop - discordance
    win_rate = (math.sqrt(linear**2 + 4 * discordance * drop * (1 - drop)) - linear) / 4
    null_deviation = math.sqrt(2 * win_rate + drop * (1 - drop))
    reach = critical_value(confidence) * null_deviation + float(ndtri(power)) * math.sqrt(discordance)
    return max(1, math.ceil((reach / drop) ** 2))


def detectable_drop(samples: int, discordance: float, power: float = 0.8, confidence: float = 0.95) -> float:
    """The smallest gate that a candidate which lost nothing passes with probability `power`, given the samples."""
    low, high = 1e-9, 1 - 1e-9
    for _ in range(60):
        middle = math.sqrt(low * high)
        if required_samples(middle, discordance, power, confidence) > samples:
            low = middle
        else:
            high = middle
    return high


def pass_probability(samples: int, loss_rate: float, win_rate: float, margin: float, confidence: float = 0.95) -> float:
    """Exact probability that the score test passes when losses and wins occur at the given rates.

    Sums the trinomial over the counts within 8 standard deviations of their means.
    """
    from scipy.special import gammaln, xlogy

    def window(rate: float) -> np.ndarray:
        reach = 8 * math.sqrt(samples * rate * (1 - rate)) + 8
        low = max(0, math.floor(samples * rate - reach))
        return np.arange(low, min(samples, math.ceil(samples * rate + reach)) + 1)

    losses, wins = np.meshgrid(window(loss_rate), window(win_rate), indexing="ij")
    rest = samples - losses - wins
    possible = rest >= 0
    losses, wins, rest = losses[possible], wins[possible], rest[possible]
    log_mass = (
        gammaln(samples + 1)
        - gammaln(losses + 1)
        - gammaln(wins + 1)
        - gammaln(rest + 1)
        + xlogy(losses, loss_rate)
        + xlogy(wins, win_rate)
        + xlogy(rest, 1 - loss_rate - win_rate)
    )
    passes = tango_statistic(losses, wins, samples, margin) <= -critical_value(confidence)
    return float(np.exp(log_mass[passes]).sum())


def power_sentence(
    samples: int, discordance: float, margin: float, confidence: float = 0.95, power: float = 0.8
) -> str | None:
    """What to do when the sample is too small for the gate, or None when it is large enough.

    Rates are fractions; the sentence speaks in points.
    """
    if not 0 < margin < 1:
        return None
    needed = required_samples(margin, discordance, power, confidence)
    if needed <= samples:
        return None
    able = 100 * detectable_drop(samples, discordance, power, confidence)
    return (
        f"With {samples:,} samples, {100 * discordance:.1f} % changed, a drop of {100 * margin:.4g} points would not "
        f"be seen: that takes {needed:,} samples ({100 * power:.0f} % power); these can prove {able:.2g}"
    )


def reach_sentence(samples: int, reach: float, room: float) -> str | None:
    """How many samples another metric's gate may take whose value met the bound by `room`, while its interval reaches
    `reach` beyond the value, in one unit; None where no number of samples helps. Intervals shrink as 1 / sqrt(n)."""
    if room <= 0 or reach <= room:
        return None
    needed = math.ceil(samples * (reach / room) ** 2)
    if needed > 1e9:
        return f"{samples:,} samples cannot tell it"
    return f"{samples:,} samples cannot tell it: that takes about {float(f'{needed:.2g}'):,.0f} that differ as these do"
