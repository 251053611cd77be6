"""Compare the speed of models fairly: each in a process of its own, in alternating rounds, by medians of ratios.

Sessions that share a process steal each other's cores (their thread pools spin), and a machine drifts over minutes; so
the processes take turns, in reversed order every other round, and each round yields one ratio per model. How many
threads are fastest differs from model to model (a small one loses more by handing work over than it gains), so each
runs with the count that a short trial of its own found best.
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
from targets.machine import usable_cpus

_REPO = Path(__file__).parents[2]


def time_alternating(
    files: Mapping[str, Path | str],
    rounds: int = 5,
    seconds: float = 2.0,
    threads: int | None = None,
    batch: int = 1,
    length: int = 128,
) -> dict[str, Any]:
    """Time models (bundles or ONNX files, by name) against the first of them; without `threads`, each with its fastest
    number of them on this machine, which a trial of half of `seconds` per number finds before the rounds.

    Returns plain data: `reference` (the first name), `threads` (per model), `trial_ms` (per model, the trial's p50 by
    number of threads; empty where `threads` was given), `rounds` (per round, each model's p50 in ms), `median_ms` (per
    model), `speedup_rounds` (per model, the reference's ms over its own, round by round) and `speedup` (their median;
    above 1 is faster than the reference). Raises InputError or EnvironmentLacks, whichever the model's process raised.
    """
    if not files or rounds < 1:
        raise InputError("a comparison needs at least one model and one round")
    names, sizes = list(files), (batch, length)
    trials = {} if threads else {name: try_threads(files[name], _options(seconds / 2, *sizes)) for name in names}
    chosen = {name: threads or fastest(trials[name]) for name in names}
    table: list[dict[str, float]] = []
    for index in range(rounds):
        order = names if index % 2 == 0 else names[::-1]
        took = {name: _latency(_bench(files[name], chosen[name], _options(seconds, *sizes))) for name in order}
        table.append({name: took[name] for name in names})
    speedups = {name: [row[names[0]] / row[name] for row in table] for name in names}
    return {
        "reference": names[0],
        "batch": batch,
        "threads": chosen,
        "trial_ms": {name: {str(count): ms for count, ms in trial.items()} for name, trial in trials.items()},
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
    """Decode with models (bundles or ONNX files, by name) behind contexts of these numbers of tokens, batch 1, one at a
    time; without `threads`, each with its fastest number of them behind that context, as `time_alternating` finds it.

    Returns a row per name and context: `name`, `context`, `threads`, `tokens_per_second` and `peak_bytes` (the
    process's largest resident memory), medians over the rounds, and `state_bytes`. The state that a context leaves is
    random numbers, which take as long as real ones; nothing is prefilled. Raises what `time_alternating` raises.
    """
    places = [(name, context) for context in contexts for name in files]
    chosen = {
        (name, context): threads or fastest(try_threads(files[name], _options(seconds / 2, 1, context)))
        for name, context in places
    }
    found: dict[tuple[str, int], list[dict[str, Any]]] = {place: [] for place in places}
    for index in range(rounds):
        for name, context in places if index % 2 == 0 else places[::-1]:
            found[name, context].append(_bench(files[name], chosen[name, context], _options(seconds, 1, context)))
    return [
        {
            "name": name,
            "context": context,
            "threads": chosen[name, context],
            "tokens_per_second": round(1e3 / median(map(_latency, rows)), 2),
            "state_bytes": rows[0].get("state_bytes", 0),
            "peak_bytes": int(median(row["peak_rss_mb"] for row in rows) * 1e6),
        }
        for (name, context), rows in found.items()
    ]


def peak_bytes(path: Path | str, threads: int) -> int:
    """Largest resident memory of a process that runs a model (a bundle or an ONNX file) on one input. Raises what
    `time_alternating` raises."""
    return int(_bench(path, threads, _options(0.1, 1, 128))["peak_rss_mb"] * 1e6)


def thread_counts(most: int) -> list[int]:
    """Numbers of threads worth a trial: `most`, and the powers of two below it, from the top."""
    powers = [1 << place for place in range(most.bit_length()) if 1 << place < most]
    return [most, *reversed(powers)]


def try_threads(path: Path | str, options: Sequence[str], most: int | None = None) -> dict[int, float]:
    """Median ms of a model by number of CPU threads, up to `most` (the machine's, without it); each in a process of its
    own. `options` go to runtime.bench. A model that runs elsewhere than on the CPU is tried with `most` alone."""
    trial: dict[int, float] = {}
    for count in thread_counts(most or usable_cpus()):
        done = _bench(path, count, options)
        trial[count] = _latency(done)
        if "CPU" not in done["provider"]:
            break
    return trial


def fastest(trial: Mapping[int, float]) -> int:
    """The number of threads of the least time."""
    return min(trial, key=trial.__getitem__)


def _latency(bench: Mapping[str, Any]) -> float:
    """Median milliseconds."""
    return float(bench["latency_ms"]["p50"])


def _options(seconds: float, batch: int, length: int) -> list[str]:
    return ["--seconds", str(seconds), "--batch", str(batch), "--length", str(length)]


def _bench(path: Path | str, threads: int, options: Sequence[str]) -> dict[str, Any]:
    """What runtime.bench measures in a process of its own."""
    command = [sys.executable, "-m", "runtime.bench", str(Path(path).absolute()), *options]
    command += ["--threads", str(threads), "--json"]
    paths = [str(_REPO), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"its process ended with {done.returncode}"]
        problem = f"cannot time {path}: {lines[-1].removeprefix('error: ')}"
        raise InputError(problem) if done.returncode == 2 else EnvironmentLacks(problem)
    return dict(json.loads(done.stdout))
