"""Decoding speed and memory against the context: a recurrent form beside the KV-cache form of the same model.

Usage, from the root of the repository, on a quiet machine:
    python -m benchmarks.decode_speed zoo:stories260k benchmarks/results/decode-stories260k.json
    python -m benchmarks.decode_speed zoo:smollm2 OUT.json --contexts 128 1024 4096 --tokens 16

Exports the original with caches and with every layer rewritten (`--forms`), untrained: weights do not change the speed.
Each measurement is a process of its own; they take turns over `--rounds` rounds, and medians are quoted. A context is
reached by prefilling random tokens. The JSON has `decode`, a list of {name, context, tokens_per_second, state_bytes,
peak_bytes}, for the report's plot. `peak_bytes`: the process's largest resident memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

CONTEXTS = (128, 1024, 4096, 16384)
PREFILL = 512
FORMS: dict[str, list[dict[str, Any]]] = {
    "kv-cache": [],
    "t2r": [{"use": "linear-attention", "feature": "t2r", "size": 32}],
    "hybrid": [{"use": "hybrid", "window": 64}],
}


def export(source: str, form: str, path: Path) -> None:
    """Write one form of the model."""
    import torch

    from compress.families import read_checkpoint
    from compress.model.streaming import Streaming
    from compress.rewrites import Calibration, parse_options, run_rewrite
    from compress.zoo import locate
    from export.onnx_model import export_onnx

    model = original = read_checkpoint(locate(source), {})
    ids_BN = torch.randint(3, 256, (2, 96), generator=torch.Generator().manual_seed(0))
    calibration = Calibration(original, lambda: iter([{"input_ids": ids_BN}]), lambda note: None)
    for table in FORMS[form]:
        model = run_rewrite(*parse_options(table), model, calibration)
    streaming = Streaming(model)
    example = streaming.example(2, 4, 3, torch.Generator().manual_seed(0))
    export_onnx(streaming, example, streaming.outputs, streaming.dynamic, path)


def child(path: Path, context: int, tokens: int, threads: int) -> dict[str, float]:
    """Prefill to the context, then decode; ONNX Runtime and numpy alone."""
    from runtime import ort

    model = ort.load(path, threads=threads)
    random = np.random.default_rng(0)
    names = {one.name for one in model.inputs}
    caches = any(one.name.startswith("past_key_values") for one in model.inputs)
    states = {
        one.name: np.zeros([1, *(0 if isinstance(size, str) else size for size in one.shape[1:])], np.float32)
        for one in model.inputs
        if one.name.startswith("past")
    }
    presents = [one.name for one in model.outputs if one.name.startswith("present")]

    def feed(ids_BN: np.ndarray, done: int) -> None:
        size = ids_BN.shape[1]
        inputs = {
            "input_ids": ids_BN,
            "attention_mask": np.ones((1, done + size if caches else size), np.int64),
            "position_ids": np.arange(done, done + size)[None],
        }
        given = model.run({**{name: array for name, array in inputs.items() if name in names}, **states})
        for past, present in zip(list(states), presents, strict=True):
            states[past] = given[present]

    done = 0
    while done < context:
        size = min(PREFILL, context - done)
        feed(random.integers(3, 256, (1, size)), done)
        done += size
    took = []
    for _ in range(tokens):
        ids_BN = random.integers(3, 256, (1, 1))
        start = time.perf_counter()
        feed(ids_BN, done)
        took.append(time.perf_counter() - start)
        done += 1
    return {
        "tokens_per_second": 1 / statistics.median(took),
        "state_bytes": sum(array.nbytes for array in states.values()),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def parent(args: argparse.Namespace) -> None:
    """Export, measure in turns, write the JSON."""
    import onnxruntime

    rounds: dict[tuple[str, int], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = {form: Path(folder, form, "model.onnx") for form in args.forms}
        for form, path in files.items():
            # In a process of its own: torch's memory and threads are not the device's.
            subprocess.run([*_module(), "--export", form, str(path), args.model], check=True)
        for number in range(args.rounds):
            for context in args.contexts:
                for form in args.forms if number % 2 == 0 else args.forms[::-1]:
                    command = [
                        *_module(),
                        "--child",
                        str(files[form]),
                        str(context),
                        str(args.tokens),
                        str(args.threads),
                    ]
                    done = subprocess.run(command, check=True, capture_output=True, text=True)
                    rounds.setdefault((form, context), []).append(json.loads(done.stdout.splitlines()[-1]))
                    print(form, context, rounds[form, context][-1], flush=True)
        sizes = {form: path.stat().st_size for form, path in files.items()}
    decode = [
        {
            "name": form,
            "context": context,
            "tokens_per_second": round(statistics.median(one["tokens_per_second"] for one in found), 2),
            "state_bytes": int(found[0]["state_bytes"]),
            "peak_bytes": int(statistics.median(one["peak_bytes"] for one in found)),
        }
        for (form, context), found in sorted(rounds.items())
    ]
    speed = {(one["name"], one["context"]): one["tokens_per_second"] for one in decode}
    result = {
        "command": "python -m benchmarks.decode_speed " + " ".join(sys.argv[1:]),
        "model": args.model,
        "onnxruntime": onnxruntime.__version__,
        "cpu": next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), ""),
        "threads": args.threads,
        "file_bytes": sizes,
        "decode": decode,
        "speedup": {
            form: {
                str(context): round(speed[form, context] / speed[args.forms[0], context], 3)
                for context in args.contexts
            }
            for form in args.forms[1:]
        },
    }
    args.result.parent.mkdir(parents=True, exist_ok=True)
    args.result.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result["speedup"]))


def _module() -> list[str]:
    return [sys.executable, "-m", "benchmarks.decode_speed"]


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def main() -> None:
    """Measure, or be one of the measured processes."""
    if sys.argv[1:2] == ["--export"]:
        form, path, source = sys.argv[2:]
        export(source, form, Path(path))
        return
    if sys.argv[1:2] == ["--child"]:
        path, *numbers = sys.argv[2:]
        context, tokens, threads = map(int, numbers)
        print(json.dumps(child(Path(path), context, tokens, threads)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("result", type=Path)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS), help="the first is compared to")
    parser.add_argument("--contexts", nargs="+", type=int, default=list(CONTEXTS))
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parent(parser.parse_args())


if __name__ == "__main__":
    main()
