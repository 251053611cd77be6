"""A long stream: what 100,000 tokens, one after the other, do to the memory, the state and the numbers of a bundle.

Usage, from the root of the repository, with the bundle of a recurrent language model:
    python -m benchmarks long-stream out/bundle benchmarks/results/long-stream.json
    python -m benchmarks long-stream out/bundle OUT.json --steps 1000 --every 250      # smoke

The model goes on with what it draws itself, temperature 1. At regular steps it notes: the resident memory, the bytes
of the state, the largest number in each state, and how far the logits are from those of the same tokens fed in chunks
as long as the bundle takes. Where the state is the sums of linear attention, `mean_value` is the largest of the mean
values S / z that the sums stand for: S and z themselves grow with every token, as sums do, and only their ratio counts.
Whatever is not finite ends the run with an error.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lab import record
from runtime.measuring.power import cpu_name
from runtime.session import open_bundle
from runtime.streams.stream import Stream
from runtime.texts.generate import Sampling, next_probabilities

FIRST = 1  # the token that starts a text


def resident_bytes() -> int:
    """Memory of this process at the moment."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def main() -> None:
    """Stream, and note what happens."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--every", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    session = open_bundle(args.bundle, threads=args.threads)
    stepped, chunked = Stream(session), Stream(session)
    random, sampling = np.random.default_rng(0), Sampling(temperature=1.0)
    logits_1V, pending = stepped.step(FIRST), [FIRST]
    rows: list[dict[str, Any]] = []
    for step in range(1, args.steps + 1):
        if step == 1 or step % args.every == 0:
            far = float(np.abs(chunked.prefill(pending) - logits_1V).max())
            rows.append({"tokens": step, "logits_off_by": far, **noted(stepped)})
            print(rows[-1], flush=True)
            pending = []
        probabilities_V = next_probabilities(logits_1V[0], sampling)
        token = int(random.choice(len(probabilities_V), p=probabilities_V))
        logits_1V = stepped.step(token)
        pending.append(token)
    result = {
        "command": f"python -m benchmarks long-stream BUNDLE {args.result.name} --steps {args.steps}",
        "python": platform.python_version(),
        "cpu": cpu_name(),
        "file": session.model.path,
        "precision": session.model.precision,
        "logits_range": [float(logits_1V.min()), float(logits_1V.max())],
        "memory_growth_bytes": rows[-1]["resident_bytes"] - rows[1]["resident_bytes"],
        "rows": rows,
    }
    args.result.parent.mkdir(parents=True, exist_ok=True)
    record.save(args.result, result)


def noted(stream: Stream) -> dict[str, Any]:
    """What there is to say of the state."""
    states = stream.states
    sums = [array for name, array in states.items() if name.endswith("_sums")]
    ratios = [array[..., :-1] / np.maximum(array[..., -1:], 1e-6) for array in sums]
    return {
        "resident_bytes": resident_bytes(),
        "state_bytes": stream.state_bytes,
        "largest": max(float(np.abs(array).max()) for array in states.values()),
        **({"mean_value": max(float(np.abs(ratio).max()) for ratio in ratios)} if ratios else {}),
    }


if __name__ == "__main__":
    main()
