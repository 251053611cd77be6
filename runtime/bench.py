"""python -m runtime.bench: latency and throughput of a bundle or a bare ONNX file on this machine."""

from __future__ import annotations

import argparse
import gc
import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.cli import add_session_options, open_for_cli, positive
from targets.errors import InputError, run_cli

if TYPE_CHECKING:
    import numpy as np

    from runtime.manifest import Tensor
    from runtime.session import Backend

WARM_UP_SHARE = 0.2  # of the seconds asked for, before the clock starts
_LEAST_RUNS = 3
PAST = "past"  # how the names of states begin
_LENGTH = 128  # of sequences, where nobody says another


def random_inputs(tensors: Sequence[Tensor], batch: int, length: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs of the shapes declared: noise for floats, ones for the rest (valid as token ids and as masks).

    The first dimension, if dynamic, becomes `batch`; one named chunk becomes 1, one named total `length` + 1 (a token
    behind a past of `length`), every other dynamic one `length`.
    Raises InputError if the batch is fixed at another size.
    """
    import numpy as np

    generator = np.random.default_rng(seed)
    sizes = {"chunk": 1, "total": length + 1}
    inputs = {}
    for tensor in tensors:
        first = tensor.shape[0] if tensor.shape else batch
        if isinstance(first, int) and first != batch:
            raise InputError(f"the batch of input {tensor.name!r} is fixed at {first}; use --batch {first}")
        rest = [sizes.get(size, length) if isinstance(size, str) else size for size in tensor.shape[1:]]
        shape = [batch, *rest] if tensor.shape else []
        noise = generator.standard_normal(shape, np.float32) if tensor.dtype.startswith("float") else np.ones(shape)
        inputs[tensor.name] = noise.astype(tensor.dtype, copy=False)
    return inputs


def measure(backend: Backend, inputs: dict[str, np.ndarray], seconds: float) -> list[float]:
    """Milliseconds of each run, after a warm-up, until `seconds` are over (three runs at least)."""
    _run_for(backend, inputs, seconds * WARM_UP_SHARE)
    gc.collect()
    gc.disable()
    try:
        return _run_for(backend, inputs, seconds)
    finally:
        gc.enable()


def _run_for(backend: Backend, inputs: dict[str, np.ndarray], seconds: float) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < _LEAST_RUNS or time.perf_counter() < end:
        start = time.perf_counter_ns()
        backend.run(inputs)
        times.append((time.perf_counter_ns() - start) / 1e6)
    return times


def summarise(times_ms: Sequence[float], batch: int) -> dict[str, object]:
    """Percentiles of the latency in ms and samples per second."""
    import numpy as np

    p50, p95, p99 = np.percentile(times_ms, [50, 95, 99])
    return {
        "runs": len(times_ms),
        "latency_ms": {"p50": round(p50, 4), "p95": round(p95, 4), "p99": round(p99, 4)},
        "samples_per_s": round(batch * len(times_ms) / (sum(times_ms) / 1e3), 2),
    }


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far. Linux says it of this program alone; the resource module's would
    begin with the process that started it."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts bytes, others KiB
    return peak if sys.platform == "darwin" else peak * 1024


def _open(args: argparse.Namespace) -> tuple[Backend, Sequence[Tensor], int, dict[str, object]]:
    """The model, the inputs that it declares, a length that it takes and what it is."""
    from runtime import ort
    from runtime.bundle import open_files
    from runtime.providers import CPU
    from targets.machine import usable_cpus

    path = Path(args.model)
    if path.is_file() and path.suffix == ".onnx":
        provider = ort.provider_named(args.provider) if args.provider else CPU
        threads = args.threads or usable_cpus()
        model = ort.load(path, provider, threads)
        return model, model.inputs, _LENGTH, {"model": str(path), "provider": model.provider, "threads": threads}
    session = open_for_cli(open_files(path, args.public_key), args)
    what = {
        "model": f"{path}/{session.model.path}",
        "precision": session.model.precision,
        "provider": session.provider,
        "threads": session.threads,
    }
    limit = (session.manifest.preprocessing or {}).get("max_length", _LENGTH)
    longest = min(_LENGTH, limit) if isinstance(limit, int) else _LENGTH
    return session.backend, session.manifest.all_inputs, longest, what


def main() -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m runtime.bench", description="Time a bundle or an ONNX file on this machine."
    )
    parser.add_argument("model", metavar="BUNDLE|MODEL.onnx")
    parser.add_argument("--batch", metavar="B", type=positive, default=1, help="samples per run (default 1)")
    parser.add_argument(
        "--length", metavar="L", type=positive, help="sequence length (default 128, or what the model takes)"
    )
    parser.add_argument("--seconds", metavar="S", type=float, default=3.0, help="how long to measure (default 3)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_session_options(parser)
    args = parser.parse_args()
    if not 0 < args.seconds < 86400:
        raise InputError(f"--seconds is {args.seconds}; allowed: more than 0, at most a day")
    from runtime.energy import EnergyMeter
    from runtime.power import cpu_name, readings

    backend, tensors, longest, what = _open(args)
    inputs = random_inputs(tensors, args.batch, args.length or longest)
    with EnergyMeter() as meter:
        times = measure(backend, inputs, args.seconds)
    state = sum(array.nbytes for name, array in inputs.items() if name.startswith(PAST))
    report = {
        **what,
        "batch": args.batch,
        **summarise(times, args.batch),
        "peak_rss_mb": round(peak_rss_bytes() / 1e6, 1),
        **({"state_bytes": state} if state else {}),
        "cpu": cpu_name(),
        **readings(),
        **({"energy_j": meter.joules} if meter.joules else {}),  # warm-up included
    }
    if args.json:
        print(json.dumps(report, indent=2))
        return 0
    for name, value in report.items():
        text = ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, dict) else value
        print(f"{name:16}{text}")
    return 0


if __name__ == "__main__":
    run_cli(main)
