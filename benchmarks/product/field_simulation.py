"""How soon a shadow and the drift monitor tell of a planted change, and how often of none: 1,000 streams each.

    python -m benchmarks field-simulation --json benchmarks/results/field-simulation.json

Shadow: each input differs with a fixed probability, 5 % are allowed; a stream ends with its verdict or after 2,000
inputs. Drift: a reference of 500 inputs of nine numbers (normal, beta, classes, lengths), then windows of 200; in some
streams one of the numbers moves by a number of standard deviations from the third window on.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.lab import record
from runtime.cli import positive
from runtime.field.drift import LEARNED, LEVEL, WINDOW, Summary, numbers_of
from runtime.field.sequential import LEVEL as SHADOW_LEVEL
from runtime.field.sequential import Share
from targets.errors import run_cli

if TYPE_CHECKING:
    import numpy as np

ALLOWED, MOST = 0.05, 2000
RATES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5)
SHIFTS = (0.0, 0.3, 0.5, 1.0)
BEFORE, AFTER = 2, 4  # windows without and with the change


def shadow_rows(streams: int, generator: np.random.Generator) -> list[dict[str, Any]]:
    """A row per true rate of difference."""
    import numpy as np

    rows = []
    for rate in RATES:
        verdicts: dict[str, list[int]] = {"above": [], "within": [], "open": []}
        for _ in range(streams):
            share = Share(ALLOWED)
            for differs in generator.random(MOST) < rate:
                share = share.after(bool(differs))
                if share.verdict != "open":
                    break
            verdicts[share.verdict].append(share.events)
        rows.append(
            {
                "rate": rate,
                **{name: len(found) / streams for name, found in verdicts.items()},
                "median_inputs": {name: float(np.median(found)) for name, found in verdicts.items() if found},
            }
        )
    return rows


def window(generator: np.random.Generator, count: int, shift: float) -> dict[str, np.ndarray]:
    """Nine numbers of each input, the third of them moved."""
    pixels = {f"pixels {at}": generator.standard_normal(count) + (shift if at == 2 else 0) for at in range(6)}
    rest = {"confidence": generator.beta(8, 1, count), "length": generator.poisson(20, count).astype(float)}
    return {**pixels, **rest, "class": generator.integers(0, 10, count).astype(float)}


def drift_rows(streams: int, generator: np.random.Generator) -> list[dict[str, Any]]:
    """A row per shift, in standard deviations."""
    rows = []
    for shift in SHIFTS:
        false, delays = 0, []
        for _ in range(streams):
            summary = Summary.of(window(generator, LEARNED, 0.0))
            false += sum(bool(summary.drifted(window(generator, WINDOW, 0.0))) for _ in range(BEFORE))
            told = [bool(summary.drifted(window(generator, WINDOW, shift))) for _ in range(AFTER)]
            delays.append(told.index(True) + 1 if any(told) else None)
        found = [one for one in delays if one is not None]
        rows.append(
            {
                "shift": shift,
                "false_alarms_per_window_before": false / (streams * BEFORE),
                "told_in_first_window": sum(one == 1 for one in found) / streams,
                f"told_within_{AFTER}_windows": len(found) / streams,
            }
        )
    return rows


def cost_us(side: int, generator: np.random.Generator) -> float:
    """Least processor time of taking an image's numbers, in microseconds."""
    import numpy as np

    pixels = generator.standard_normal((1, 3, side, side)).astype(np.float32)
    logits, times = generator.standard_normal((1, 10)), []
    for _ in range(300):
        began = time.process_time_ns()
        numbers_of({"pixel_values": pixels}, logits)
        times.append((time.process_time_ns() - began) / 1e3)
    return round(min(times), 1)


def main() -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks field-simulation", description=__doc__)
    parser.add_argument("--streams", metavar="N", type=positive, default=1000)
    parser.add_argument("--json", metavar="FILE", type=Path, required=True)
    args = parser.parse_args()
    import numpy as np

    generator = np.random.default_rng(0)
    report = {
        "command": f"python -m benchmarks field-simulation --streams {args.streams}",
        "seed": 0,
        "streams": args.streams,
        "shadow": {"allowed": ALLOWED, "level": SHADOW_LEVEL, "rows": shadow_rows(args.streams, generator)},
        "drift": {"level": LEVEL, "learned": LEARNED, "window": WINDOW, "rows": drift_rows(args.streams, generator)},
        "drift_cost_us": {f"{side} x {side}": cost_us(side, generator) for side in (32, 224)},
    }
    record.save(args.json, report)
    return 0


if __name__ == "__main__":
    run_cli(main)
