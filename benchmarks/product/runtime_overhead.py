"""What the runtime adds to a bare ONNX Runtime call: checks of inputs and outputs, names, shapes.

    python -m benchmarks runtime-overhead out/bundle --json benchmarks/results/runtime-overhead.json

Both calls use one and the same ONNX Runtime session, in turns whose order flips, so nothing but the wrapping differs.
The verdict is the median of the paired differences: at most 5 % of the bare call, or 50 microseconds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.lab import record
from runtime import ort
from runtime.bench import random_inputs
from runtime.cli import positive
from runtime.measuring.power import cpu_name
from runtime.session import open_bundle
from targets.errors import GateFailed, InputError, run_cli

WARM_UP = 20


def microseconds(call: Callable[[], object]) -> float:
    """One call."""
    began = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - began) / 1e3


def main() -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks runtime-overhead", description=__doc__)
    parser.add_argument("bundles", metavar="BUNDLE", nargs="+", type=Path)
    parser.add_argument("--calls", metavar="N", type=positive, default=500, help="pairs of calls (default 500)")
    parser.add_argument("--threads", metavar="N", type=positive, default=2)
    parser.add_argument("--length", metavar="L", type=positive, default=32)
    parser.add_argument("--json", metavar="FILE", type=Path, required=True)
    args = parser.parse_args()
    rows = {}
    for path in args.bundles:
        session = open_bundle(path, provider="cpu", threads=args.threads)
        backend = session.backend
        if not isinstance(backend, ort.OrtModel):
            raise InputError(f"{path} does not run on ONNX Runtime here")
        inputs = random_inputs(session.manifest.all_inputs, 1, args.length)
        calls = [lambda b=backend, i=inputs: b.session.run(None, i), lambda s=session, i=inputs: s.run(i)]
        pairs = []
        for index in range(WARM_UP + args.calls):
            order = (0, 1) if index % 2 else (1, 0)
            took = {which: microseconds(calls[which]) for which in order}
            pairs.append((took[0], took[1]))
        pairs = pairs[WARM_UP:]
        bare = statistics.median(one for one, _ in pairs)
        added = statistics.median(wrapped - one for one, wrapped in pairs)
        rows[str(path)] = {
            "model": session.describe(),
            "bare_us": round(bare, 1),
            "added_us": round(added, 1),
            "added_share": round(added / bare, 4),
            "passed": added <= max(0.05 * bare, 50),
        }
        print(f"{path}: {bare:.1f} us bare, {added:+.1f} us added ({100 * added / bare:+.2f} %)")
    whole = {
        "command": f"python -m benchmarks runtime-overhead {' '.join(sys.argv[1:])}",
        "calls": args.calls,
        "cpu": cpu_name(),
        "bundles": rows,
    }
    record.save(args.json, whole)
    slow = [name for name, row in rows.items() if not row["passed"]]
    if slow:
        raise GateFailed(f"the runtime adds more than 5 % and 50 us to {', '.join(slow)}")
    return 0


if __name__ == "__main__":
    run_cli(main)
