"""Compare the speed of models fairly: each in a process of its own, in alternating rounds, by medians of ratios.

Sessions that share a process steal each other's cores (their thread pools spin), and a machine drifts over minutes; so
the processes take turns, in reversed order every other round, and each round yields one ratio per model.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from targets.errors import EnvironmentLacks, InputError

_REPO = Path(__file__).parents[1]


def time_alternating(
    files: Mapping[str, Path | str],
    rounds: int = 5,
    seconds: float = 2.0,
    threads: int | None = None,
    batch: int = 1,
    length: int = 128,
) -> dict[str, Any]:
    """Time models (bundles or ONNX files, by name) against the first of them.

    Returns plain data: `reference` (the first name), `rounds` (per round, each model's p50 in ms), `median_ms` (per
    model), `speedup_rounds` (per model, the reference's ms over its own, round by round) and `speedup` (their median;
    above 1 is faster than the reference). Raises InputError or EnvironmentLacks, whichever the model's process raised.
    """
    if not files or rounds < 1:
        raise InputError("a comparison needs at least one model and one round")
    names = list(files)
    table: list[dict[str, float]] = []
    for index in range(rounds):
        order = names if index % 2 == 0 else names[::-1]
        took = {name: _latency(_bench(Path(files[name]), seconds, threads, batch, length)) for name in order}
        table.append({name: took[name] for name in names})
    speedups = {name: [row[names[0]] / row[name] for row in table] for name in names}
    return {
        "reference": names[0],
        "batch": batch,
        "threads": threads,
        "rounds": table,
        "median_ms": {name: median(row[name] for row in table) for name in names},
        "speedup_rounds": speedups,
        "speedup": {name: median(ratios) for name, ratios in speedups.items()},
    }


def decode_alternating(
    files: Mapping[str, Path | str],
    contexts: Sequence[int],
    rounds: int = 3,
    seconds: float = 1.0,
    threads: int | None = None,
) -> list[dict[str, Any]]:
    """Decode with models (bundles or ONNX files, by name) behind contexts of so many tokens, batch 1, one at a time.

    Returns a row per name and context: `name`, `context`, `tokens_per_second` and `peak_bytes` (the process's largest
    resident memory), medians over the rounds, and `state_bytes`. The state that a context leaves is random numbers,
    which take as long as real ones; nothing is prefilled. Raises InputError or EnvironmentLacks as `time_alternating`.
    """
    places = [(name, context) for context in contexts for name in files]
    found: dict[tuple[str, int], list[dict[str, Any]]] = {place: [] for place in places}
    for index in range(rounds):
        for name, context in places if index % 2 == 0 else places[::-1]:
            found[name, context].append(_bench(Path(files[name]), seconds, threads, 1, context))
    return [
        {
            "name": name,
            "context": context,
            "tokens_per_second": round(1e3 / median(map(_latency, rows)), 2),
            "state_bytes": rows[0].get("state_bytes", 0),
            "peak_bytes": int(median(row["peak_rss_mb"] for row in rows) * 1e6),
        }
        for (name, context), rows in found.items()
    ]


def _latency(bench: Mapping[str, Any]) -> float:
    """Median milliseconds."""
    return float(bench["latency_ms"]["p50"])


def _bench(path: Path, seconds: float, threads: int | None, batch: int, length: int) -> dict[str, Any]:
    """What runtime.bench measures in a process of its own."""
    command = [sys.executable, "-m", "runtime.bench", str(path.absolute()), "--json", "--seconds", str(seconds)]
    command += ["--batch", str(batch), "--length", str(length)]
    command += ["--threads", str(threads)] if threads else []
    paths = [str(_REPO), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"its process ended with {done.returncode}"]
        problem = f"cannot time {path}: {lines[-1].removeprefix('error: ')}"
        raise InputError(problem) if done.returncode == 2 else EnvironmentLacks(problem)
    return dict(json.loads(done.stdout))
