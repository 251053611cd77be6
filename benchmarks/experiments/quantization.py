r"""What int8 and 4-bit weights cost in accuracy, by calibration and smoothing, on the evaluation set of each model.

    python -m benchmarks quantization --models zoo:vit-cifar10 zoo:minilm --json benchmarks/results/quantization.json
    python -m benchmarks quantization --models zoo:smollm2 --target cpu --settings int8 int4 --data texts.txt \
        --json benchmarks/results/quantization-smollm2.json

Each row is a run of `compress.run` with recipe `identity` up to its gate: for a Jetson the static Q/DQ file (what
TensorRT gets, here on ONNX Runtime's CPU kernels) and the dynamic file for CPUs, for a CPU the latter or one of 4-bit
weights, against the original in fp32 on the same samples. The search for costly layers is off unless `--search on`.
Stages that ran before come from the cache.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import targets
from benchmarks.lab import record
from benchmarks.lab.record import command
from compress.pipeline import Cache, Runner
from compress.pipeline.view import view
from compress.recipe import load
from compress.stages.artifacts import Comparison, ShippedModels
from compress.stages.graph import Job, build_graph
from export import graph
from export.precision.attention import attentions, in_int8
from runtime.bundles.manifest import GRAPH
from runtime.measuring.power import cpu_name
from targets.errors import run_cli

#: Name of a row -> settings of the recipe.
SETTINGS = {
    "int8": (),
    "int4": ("precision.mode=int4",),
    "attention": ("precision.attention=both",),
    "percentile": (),
    "minmax": ("precision.calibration=minmax",),
    "entropy": ("precision.calibration=entropy",),
    "percentile, smooth 0.5": ("precision.smooth=0.5",),
    "percentile, smooth 0.75": ("precision.smooth=0.75",),
}


def rows_of(model: str, name: str, target: str, settings: list[str], cache: Cache) -> list[dict[str, Any]]:
    """A row per shipped file."""
    table = load("identity", [f'model.source="{model}"', "precision.mode=int8", *settings])
    job = Job(table, "identity", targets.load(target), 0, cache.root / "digests.json")
    made = Runner(build_graph(job), cache, [view(sys.stderr)]).run(until="verify")
    comparison, models = made["verify"], made["precision"]
    assert isinstance(comparison, Comparison) and isinstance(models, ShippedModels)
    drifts = comparison.drifts()
    rows = []
    for file in models.entries():
        drift = drifts[file.path]
        metrics = {
            one.name: {
                "fp32": one.reference,
                file.precision: one.candidate,
                "drop": one.drop,
                "value": one.value,
                "interval": [one.low, one.high],
            }
            for one in drift.metrics
        }
        rows.append(
            {
                "model": model,
                "setting": name,
                "file": file.path,
                "what": file.note,
                "bytes": file.bytes,
                "samples": drift.samples,
                "metrics": metrics,
                "attention": attention_of(models, file.path),
            }
        )
    return rows


def attention_of(models: ShippedModels, path: str) -> dict[str, dict[str, int]]:
    """Of each graph of a file of standard operators: how many blocks of attention it has, and how many of them have
    the pairs that TensorRT fuses in int8."""
    found = {}
    for file in models.files():
        if file.path.replace(file.graph, GRAPH, 1) == path:
            model = graph.load(models.path / file.path)
            found[file.path] = {"blocks": len(attentions(model)), "in_int8": len(in_int8(model))}
    return found


def main() -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks quantization", description=__doc__)
    parser.add_argument("--models", metavar="M", nargs="+", default=["zoo:vit-cifar10", "zoo:minilm"])
    parser.add_argument("--target", default="jetson")
    parser.add_argument("--data", metavar="D", help="to evaluate on; the model's own if not given")
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=[*SETTINGS][3:])
    parser.add_argument("--search", choices=["on", "off"], default="off", help="keep costly layers in fp32")
    parser.add_argument("--limit", metavar="N", type=int, help="evaluate on N samples only")
    parser.add_argument("--json", metavar="FILE", type=Path, required=True)
    args = parser.parse_args()
    common = [f"data.limit={args.limit}"] if args.limit else []
    common += [f"data.source={json.dumps(args.data)}"] if args.data else []
    common += ["precision.max_kept=0"] if args.search == "off" else []
    rows: list[dict[str, Any]] = []
    for model in args.models:
        for name in args.settings:
            rows += rows_of(model, name, args.target, [*common, *SETTINGS[name]], Cache())
    whole = {
        "command": command("quantization"),
        "versions": {name: version(name) for name in ("onnxruntime", "onnx", "torch", "numpy")},
        "cpu": cpu_name(),
        "rows": rows,
    }
    record.save(args.json, whole)
    for row in rows:
        told = ", ".join(f"{name} {one['fp32']}, drop {one['drop']}" for name, one in row["metrics"].items())
        print(f"{row['model']} {row['setting']}, {row['file']}, {row['bytes']} bytes: {told}")
    return 0


if __name__ == "__main__":
    run_cli(main)
