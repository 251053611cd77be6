"""What does a gate cost beside the two models' own inference? Run on a quiet machine.

    python -m benchmarks gate-speed

exports the embedded vit-cifar10 to ONNX (fp32, and its dynamic int8) and, in alternating rounds, times
(a) `python -m compress.verify fp32.onnx int8.onnx` on 10,000 images, from the start of the process to its verdict, and
(b) each model's own session.run over the same 10,000 prepared images in a process of its own, nothing else counted.
Writes benchmarks/results/gate_speed.json: the ratio of (a) to the sum of (b) per round, and their median,
which may be at most 1.15.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.lab import record

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "gate_speed.json"
MODEL, DATA = "zoo:vit-cifar10", "zoo:cifar10-test"
ALLOWED = 1.15


def models(folder: Path) -> tuple[Path, Path]:
    """The original in fp32 and in dynamic int8, each beside its processor and labels."""
    from compress import tasks, zoo
    from compress.data import preprocessing_from_hf
    from compress.tasks import read_checkpoint
    from export.onnx_model import export_onnx
    from export.precision.int8_dynamic import to_int8_dynamic

    source = zoo.locate(MODEL)
    model = read_checkpoint(source, preprocessing_from_hf(source))
    graph = tasks.get("image-classification").graph_inputs(model.structure, seed=0)
    paths = folder / "fp32" / "model.onnx", folder / "int8" / "model.onnx"
    for path in paths:
        path.parent.mkdir()
        for name in ("config.json", "preprocessor_config.json"):
            shutil.copy(source / name, path.parent)
    export_onnx(model, graph.example, ("logits",), graph.dynamic, paths[0], opset=20)
    to_int8_dynamic(paths[0], paths[1])
    return paths


def own_seconds(path: Path, images: int) -> float:
    """Seconds that session.run takes for the images, in batches as the gate makes them. Runs in its own process."""
    from compress.data import load, preprocessing_from_hf
    from compress.judging.side import BATCH
    from runtime import ort

    data = load(DATA)
    batches = list(data.subset(range(images)).batches(preprocessing_from_hf(path.parent), batch_size=BATCH))
    model = ort.load(path)
    model.run({"pixel_values": batches[0][0]})
    began = time.perf_counter()
    for pixels, _ in batches:
        model.run({"pixel_values": pixels})
    return time.perf_counter() - began


def in_process(arguments: list[str]) -> tuple[float, str]:
    """Wall-clock seconds of a process and what it wrote. Raises CalledProcessError if it ended with 2 or 3."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode not in (0, 1):
        raise subprocess.CalledProcessError(done.returncode, arguments, done.stdout, done.stderr)
    return seconds, done.stdout


def measure(rounds: int, images: int) -> list[dict[str, float]]:
    """Per round: seconds of the gate and of each model alone, and their ratio."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reference, candidate = models(folder)
        data = DATA if images == 10_000 else str(subset(folder, images))
        gate = ["-m", "compress.verify", str(reference), str(candidate), "--data", data, "--part", "all"]
        for index in range(rounds):
            alone = {
                path.parent.name: float(
                    in_process(["-m", "benchmarks", "gate-speed", "--own", str(path), "--images", str(images)])[1]
                )
                for path in ((reference, candidate) if index % 2 == 0 else (candidate, reference))
            }
            seconds, _ = in_process(gate)
            ratio = seconds / sum(alone.values())
            rows.append({"gate": seconds, **{f"{key} alone": value for key, value in alone.items()}, "ratio": ratio})
            print(f"round {index + 1}: gate {seconds:.1f} s, models {sum(alone.values()):.1f} s, ratio {ratio:.3f}")
    return rows


def subset(folder: Path, images: int) -> Path:
    """Fewer images, as a file (for trying this script out)."""
    from compress.data import load

    data = load(DATA).subset(range(images))
    path = folder / "data.npz"
    np.savez(path, images=np.stack(data.raw()), labels=data.labels, class_names=np.array(data.class_names))
    return path


def main() -> int:
    """Measure, write the result, and return 1 if the gate takes too long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--own", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.own:
        print(own_seconds(arguments.own, arguments.images))
        return 0
    rows = measure(arguments.rounds, arguments.images)
    ratio = median(row["ratio"] for row in rows)
    result: dict[str, Any] = {
        "command": "python -m benchmarks gate-speed",
        "images": arguments.images,
        "rounds": rows,
        "median_ratio": ratio,
        "allowed_ratio": ALLOWED,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    record.save(arguments.out, result)
    print(f"wrote {arguments.out}: the gate takes {ratio:.3f} of the models' own time, allowed {ALLOWED}")
    return 1 if ratio > ALLOWED else 0


if __name__ == "__main__":
    sys.exit(main())
