"""python -m runtime.bench: latency and throughput of a bundle or a bare ONNX file on this machine."""

from __future__ import annotations

import argparse
import gc
import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.cli import add_session_options, open_bundle_for_cli, open_for_cli, positive, session_options
from targets.cli import Parser
from targets.errors import EnvironmentLacks, InputError, run_cli

if TYPE_CHECKING:
    import numpy as np

    from runtime.backends import Loaded
    from runtime.bundles.bundle import Bundle
    from runtime.bundles.manifest import Tensor
    from runtime.measuring.trials import Trial
    from runtime.session import Session

WARM_UP_SHARE = 0.2  # of the seconds asked for, before the clock starts
TRIAL_SHARE = 0.25  # of the seconds asked for, for each number of threads that is tried
_LEAST_RUNS = 3
_LEAST_FOR = {50: 1, 95: 20, 99: 100}  # runs: with fewer, a percentile would be the largest of them
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


def measure(backend: Loaded, inputs: dict[str, np.ndarray], seconds: float) -> list[float]:
    """Milliseconds of each run, after a warm-up, until `seconds` are over (three runs at least)."""
    return measure_calls(lambda: backend.run(inputs), seconds)


def measure_calls(call: Callable[[], object], seconds: float) -> list[float]:
    """The same of anything that is done when it returns."""
    warm_up(call, seconds)
    return timed(call, seconds)


def warm_up(call: Callable[[], object], seconds: float) -> None:
    """What comes before a measurement of `seconds` seconds, and is not part of it."""
    _call_for(call, seconds * WARM_UP_SHARE)


def timed(call: Callable[[], object], seconds: float) -> list[float]:
    """Milliseconds of each call, without a warm-up."""
    gc.collect()
    gc.disable()
    try:
        return _call_for(call, seconds)
    finally:
        gc.enable()


def _call_for(call: Callable[[], object], seconds: float) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < _LEAST_RUNS or time.perf_counter() < end:
        start = time.perf_counter_ns()
        call()
        times.append((time.perf_counter_ns() - start) / 1e6)
    return times


def summarize(times_ms: Sequence[float], batch: int) -> dict[str, object]:
    """Percentiles of the latency in ms, as far as there are runs enough for each, and samples per second."""
    import numpy as np

    shown = [percent for percent, least in _LEAST_FOR.items() if len(times_ms) >= least]
    return {
        "runs": len(times_ms),
        "latency_ms": {f"p{percent}": round(float(np.percentile(times_ms, percent)), 4) for percent in shown},
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


def _bundle(path: Path, args: argparse.Namespace) -> Bundle | None:
    """The bundle, verified as the options ask; none for a bare ONNX file, for which some of them cannot be followed."""
    if not path.is_file() or path.suffix != ".onnx":
        return open_bundle_for_cli(path, args).one(args.graph)
    asked = {"--public-key": args.public_key, "--graph": args.graph, "--loops": args.loops}
    unheard = [name for name, value in asked.items() if value is not None]
    if unheard:
        raise InputError(f"{path} is a bare ONNX file, and {unheard[0]} is for bundles; give the bundle's folder")
    return None


@dataclass(frozen=True)
class _Opened:
    """The model, the inputs that it declares, a length that it takes, what it is and, of a bundle, its session."""

    backend: Loaded
    inputs: Sequence[Tensor]
    length: int
    what: dict[str, object]
    session: Session | None = None


def _open(args: argparse.Namespace, bundle: Bundle | None) -> _Opened:
    from runtime import backends
    from targets.machine import usable_cpus

    if bundle is None:
        backend = backends.asked(args.provider) if args.provider else backends.get(backends.CPU)
        count = args.threads or usable_cpus()
        model = backend.open(backends.Opening(Path(args.model), threads=count))
        return _Opened(
            model, model.inputs, _LENGTH, {"model": args.model, "provider": model.provider, "threads": count}
        )
    session = open_for_cli(bundle, args, args.batch)
    what = {
        "model": f"{Path(args.model)}/{session.model.path}",
        "precision": session.model.precision,
        "provider": session.provider,
        "threads": session.threads,
    }
    limit = (session.manifest.preprocessing or {}).get("max_length", _LENGTH)
    longest = min(_LENGTH, limit) if isinstance(limit, int) else _LENGTH
    return _Opened(session.backend, session.manifest.all_inputs, longest, what, session)


def _trials(args: argparse.Namespace, bundle: Bundle | None) -> list[Trial]:
    """As far as there is a choice of backends or threads: a trial of each backend, the fastest first. One that does not
    give the bundle's golden outputs is left out, unless it is the one that runs anyway."""
    from runtime.measuring.compare import try_threads
    from runtime.measuring.trials import Trial, agrees, candidates, compare_backends
    from runtime.session import target_threads
    from targets.machine import usable_cpus

    most = target_threads(bundle.manifest) if bundle else usable_cpus()
    sizes = ["--batch", str(args.batch), *(["--length", str(args.length)] if args.length else [])]
    graph = ["--graph", args.graph] if args.graph else []
    options = ["--seconds", str(args.seconds * TRIAL_SHARE), *sizes, *graph, *session_options(args)]
    if args.threads:
        return []
    if bundle is None or args.provider or len(candidates(bundle)) < 2:
        return [Trial(args.provider, try_threads(args.model, options, most))] if most > 1 else []
    trials = compare_backends(bundle, options, most)
    while len(trials) > 1 and not agrees(bundle, str(trials[0].backend), args.loops):
        print(f"note: {trials[0].backend} is left out: its outputs are not the golden ones", file=sys.stderr)
        trials = trials[1:]
    return trials


def _tell_fastest(session: Session | None, trials: Sequence[Trial], batch: int) -> None:
    """On stderr: what is fastest, and whether runtime.run will take it, which asks about one input or about as many at
    once as the model takes."""
    from runtime.measuring.fastest import Choice, remember, remember_choice

    best, kept = trials[0], ""
    asked = {session.max_batch: "several inputs", 1: "one input"} if session is not None else {}
    compared = {str(trial.backend): round(trial.best, 4) for trial in trials} if len(trials) > 1 else {}
    if session is not None and batch in asked:
        bundle = session.bundle
        try:
            if len(best.ms) > 1:
                remember(bundle, session.model, batch, best.threads)
            if compared:
                file = bundle.manifest.files[session.model.path].sha256
                remember_choice(bundle, batch, Choice(str(best.backend), file, best.threads, compared))
            kept = f"; runtime.run takes it here from now on for {asked[batch]}"
        except (InputError, EnvironmentLacks) as problem:
            kept = f"; not remembered: {problem}"
    times = ", ".join(f"{name} {ms:.3g} ms" for name, ms in compared.items())
    named = f"--provider {best.backend} ({times}) and " if compared else ""
    print(f"fastest with {named}--threads {best.threads}{kept}", file=sys.stderr)


def main() -> int:
    """Run the command line; the exit code."""
    parser = Parser(prog="python -m runtime.bench", description="Time a bundle or an ONNX file on this machine.")
    parser.add_argument("model", metavar="BUNDLE|MODEL.onnx")
    parser.add_argument("--batch", metavar="B", type=positive, default=1, help="samples per run (default 1)")
    parser.add_argument(
        "--length", metavar="L", type=positive, help="sequence length (default 128, or what the model takes)"
    )
    parser.add_argument("--graph", metavar="NAME", help="of a model that has several")
    parser.add_argument("--seconds", metavar="S", type=float, default=3.0, help="how long to measure (default 3)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_session_options(parser)
    args = parser.parse_args()
    if not 0 < args.seconds < 86400:
        raise InputError(f"--seconds is {args.seconds}; allowed: more than 0, at most a day")
    from runtime.measuring.energy import EnergyMeter
    from runtime.measuring.power import cpu_name, readings

    path = Path(args.model)
    bundle = _bundle(path, args)
    trials = _trials(args, bundle)
    if trials:
        args.provider, args.threads = trials[0].backend, trials[0].threads
    opened = _open(args, bundle)
    inputs = random_inputs(opened.inputs, args.batch, args.length or opened.length)
    warm_up(lambda: opened.backend.run(inputs), args.seconds)
    with EnergyMeter() as meter:
        times = timed(lambda: opened.backend.run(inputs), args.seconds)
    state = sum(array.nbytes for name, array in inputs.items() if name.startswith(PAST))
    report = {
        **opened.what,
        **({"ms_by_threads": {str(count): ms for count, ms in trials[0].ms.items()}} if trials else {}),
        **({"ms_by_backend": {str(trial.backend): trial.best for trial in trials}} if len(trials) > 1 else {}),
        "batch": args.batch,
        **summarize(times, args.batch),
        "peak_rss_mb": round(peak_rss_bytes() / 1e6, 1),
        **({"state_bytes": state} if state else {}),
        "cpu": cpu_name(),
        **readings(),
        **({"energy_j": meter.joules} if meter.joules else {}),
    }
    if len(trials) > 1 or (trials and len(trials[0].ms) > 1):
        _tell_fastest(opened.session, trials, args.batch)
    if args.json:
        print(json.dumps(report, indent=2))
        return 0
    for name, value in report.items():
        text = ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, dict) else value
        print(f"{name:16}{text}")
    return 0


if __name__ == "__main__":
    run_cli(main)
