"""How fast healing is on a GPU, that its steps are those that run one by one, and that it resumes bit for bit.

    python -m benchmarks healing-speed cifar10.jpegs RESULT.json --batch 512 1024      # one GPU, minutes
    python -m benchmarks healing-speed zoo:cifar10-train RESULT.json --batch 8 --steps 4 --settle 2   # smoke test

The original is vit-cifar10, the student `benchmarks/models/vit-cifar10-narrow` with noise of a tenth. Augmentation,
both models and mixed images are included. Each row is a process of its own, timed from its first step to its last,
after `--settle` steps.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from benchmarks.lab import images as vit_lab
from benchmarks.lab import record
from compress.heal import HealOptions, ImageFeed, checkpoint, heal, loop
from compress.model import load

STUDENT = vit_lab.ROOT / "benchmarks" / "models" / "vit-cifar10-narrow"


class Stopped(Exception):
    """The run was stopped on purpose."""


class Clock:
    """Notes when each reported step was done; stops the run after `last`."""

    def __init__(self, last: float = float("inf")) -> None:
        self.last = last
        self.begin = time.perf_counter()
        self.seen: dict[float, float] = {}

    def __call__(self, done: float, total: float, note: str = "", **numbers: float) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seen[done] = time.perf_counter() - self.begin
        if done >= self.last:
            raise Stopped


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Heal for `--steps` steps; the speed after `--settle` steps and a digest of the healed weights."""
    torch.manual_seed(0)
    importlib.import_module("compress.heal.heal").WORTH_COMPILING = 0  # type: ignore[attr-defined]
    if args.mode == "eager":
        loop.captures = lambda accelerator: False
    if torch.cuda.is_available():
        torch.backends.cuda.enable_cudnn_sdp(False)  # its bf16 backward pass has open fault reports on Hopper
    on_gpu = torch.cuda.is_available()
    accelerator = Accelerator(mixed_precision="bf16" if on_gpu else "no")
    teacher, student = vit_lab.original("vit-cifar10"), load(STUDENT)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():  # something to heal: what comes back no better would be the model that went in
        for parameter in student.parameters():
            parameter.mul_(1 + 0.1 * torch.randn(parameter.shape, generator=noise))
    train, held_out = vit_lab.training_parts(args.data)
    (batch,) = args.batch
    options = HealOptions(
        steps=args.steps, batch_size=batch, lr=2e-4, mixup=True, eval_every=args.steps, average=0.99, weight_decay=0.05
    )
    feeds = [ImageFeed(one, teacher.structure.preprocessing, 0, accelerator.device) for one in (train, held_out)]
    stops = [args.stop, float("inf")] if args.stop else [float("inf")]
    checkpoint.INTERVAL = 1.0 if args.stop else 1e9
    with tempfile.TemporaryDirectory() as work:
        for stop in stops:
            clock = Clock(stop)
            try:
                healed = heal(student, teacher, *feeds, options, accelerator, Path(work), clock)
            except Stopped:
                continue
    first, last = min(step for step in clock.seen if step >= args.settle), max(clock.seen)
    seconds = clock.seen[last] - clock.seen[first]
    weights = b"".join(tensor.cpu().numpy().tobytes() for tensor in healed.model.state_dict().values())
    return {
        "mode": args.mode,
        "batch": batch,
        "stopped_at": args.stop,
        "steps_per_second": round((last - first) / seconds, 2),
        "images_per_second": round((last - first) * batch / seconds),
        "seconds_to_first_report": round(min(clock.seen.values()), 1),
        "drift_before": healed.drift_before,
        "drift_after": healed.drift_after,
        "weights": hashlib.sha256(weights).hexdigest()[:16],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("json", type=Path)
    parser.add_argument("--batch", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--settle", type=int, default=100)
    parser.add_argument("--mode", choices=("captured", "eager"), help=argparse.SUPPRESS)
    parser.add_argument("--stop", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.mode:
        print(json.dumps(measure(args)), flush=True)
        return
    rows = []
    first = args.batch[0]
    runs = [("captured", batch, 0) for batch in args.batch]
    for mode, batch, stop in [*runs, ("captured", first, args.steps // 2), ("eager", first, 0)]:
        given = [args.data, "-", "--batch", batch, "--steps", args.steps, "--settle", args.settle]
        command = [sys.executable, "-m", "benchmarks", "healing-speed", *given, "--mode", mode, "--stop", stop]
        done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
        content = {"command": record.command("healing-speed"), **record.surroundings(), "rows": rows}
        record.save(args.json, content)


if __name__ == "__main__":
    main()
