"""What it costs to ask a dynamically quantized file one sample at a time, and how many answers neighbours change.

    python -m benchmarks batch-of-one FILE.onnx --data zoo:cifar10-test --samples 2000 --json F

FILE takes `pixel_values` prepared as zoo:vit-cifar10 does. Times are CPU seconds of one thread, so that other programs
beside it do not count.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks.lab import record
from compress import zoo
from compress.data import load, preprocessing_from_hf
from runtime.measuring.power import cpu_name

TOGETHER = 128


def main() -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--data", default="zoo:cifar10-test")
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(args.file, options, providers=["CPUExecutionProvider"])
    data = load(args.data, limit=args.samples)
    section = preprocessing_from_hf(zoo.locate("zoo:vit-cifar10"))
    pixels = np.concatenate([batch for batch, _ in data.batches(section, batch_size=TOGETHER)])
    shuffled = np.random.default_rng(0).permutation(len(pixels))

    def ask(order: np.ndarray, size: int) -> tuple[np.ndarray, float]:
        answers = np.empty(len(order), np.int64)
        begun = time.process_time()
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            answers[chosen] = session.run(["logits"], {"pixel_values": pixels[chosen]})[0].argmax(axis=1)
        return answers, time.process_time() - begun

    ask(np.arange(TOGETHER), TOGETHER)
    ask(np.arange(16), 1)
    alone, seconds_alone = ask(np.arange(len(pixels)), 1)
    together, seconds_together = ask(np.arange(len(pixels)), TOGETHER)
    mixed, _ = ask(shuffled, TOGETHER)
    result = {
        "command": f"python -m benchmarks batch-of-one {args.file.name} --data {args.data} --samples {args.samples}",
        "machine": {"cpu": cpu_name(), "threads": 1, "python": platform.python_version()},
        "versions": {name: version(name) for name in ("onnxruntime", "numpy")},
        "samples": len(pixels),
        "cpu_seconds": {"batch 1": round(seconds_alone, 2), f"batch {TOGETHER}": round(seconds_together, 2)},
        "ratio": round(seconds_alone / seconds_together, 3),
        "answers_changed": {
            f"batch {TOGETHER}, in the data's order": int((together != alone).sum()),
            f"batch {TOGETHER}, shuffled": int((mixed != alone).sum()),
        },
        "top1": {
            name: round(100 * float((answers == data.labels).mean()), 3)
            for name, answers in (("batch 1", alone), ("in order", together), ("shuffled", mixed))
        },
    }
    record.save(args.json, result)
    print(json.dumps(result["ratio"]), result["answers_changed"], file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
