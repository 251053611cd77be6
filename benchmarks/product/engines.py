r"""A table of TensorRT engines: bytes, seconds to build and proof of the precision, for models and recipes.

    python -m benchmarks engines --runs zoo:vit-cifar10=identity zoo:vit-cifar10=quick \
        --json benchmarks/results/engines.json

Each run is MODEL=RECIPE; its engines are built in fp16 and int8 by TensorRT for RTX, for compute capability 8.6 and 8.9
in one engine, as `compress.run --target rtx` does. Needs no GPU; nothing is run. Where weights are tied (shared by
several layers of the ONNX file) an untied twin, the same graph with a copy of the weights per use, is built beside it.
Stages that ran before come from the cache, so the heavy part of a recipe is done once.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import targets
from benchmarks.lab import record
from compress.pipeline import Cache, Runner
from compress.pipeline.view import view
from compress.recipe import load_for_model
from compress.stages.artifacts import Engines, ShippedModels
from compress.stages.graph import Job, build_graph
from export import graph as onnx_graph
from runtime.build import make_engine
from runtime.engines import trt
from runtime.engines.engine_file import EngineRecord, read_record
from runtime.files import sha256_of
from runtime.measuring.power import cpu_name
from targets.errors import InputError, run_cli


def untie(source: Path, path: Path) -> int:
    """Give each reader of a shared matrix a copy of its own, each off by one part in a thousand at one place, so that
    nothing can merge them again; returns how many copies were made."""
    from onnx import numpy_helper

    model = onnx_graph.load(source)
    weights = onnx_graph.weights(model)
    uses: Counter[str] = Counter()
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name not in weights or weights[name].ndim < 2:
                continue
            uses[name] += 1
            if uses[name] == 1:
                continue
            copy = weights[name].copy()
            at = (uses[name] % copy.shape[0], *([0] * (copy.ndim - 1)))
            copy[at] = copy[at] * 0.999 if copy.dtype.kind == "f" else copy[at] ^ 1
            node.input[index] = f"{name}.copy{uses[name]}"
            model.graph.initializer.append(numpy_helper.from_array(copy, node.input[index]))
    onnx_graph.save(model, path)
    return sum(count - 1 for count in uses.values())


def build_untied(files: Path, record: EngineRecord) -> dict[str, Any] | None:
    """The engine of the untied twin, None if nothing is tied."""
    with tempfile.TemporaryDirectory() as folder:
        twin = Path(folder, "model.onnx")
        if not untie(files / record.identity.model, twin):
            return None
        identity = replace(record.identity, onnx={twin.name: sha256_of(twin)})
        began = time.perf_counter()
        engine, _ = make_engine(trt.load("tensorrt_rtx"), twin.parent, identity, twin.parent)
        return row(engine.record, time.perf_counter() - began)


def row(record: EngineRecord, seconds: float) -> dict[str, Any]:
    """One line of the table."""
    return {
        "precision": record.identity.precision,
        "compute_capabilities": list(record.identity.compute_capabilities),
        "onnx_bytes": record.onnx_bytes,
        "engine_bytes": record.bytes,
        "weights_bytes": record.weights_bytes,
        "compute_types": record.compute_types,
        "layers_with_int8_weights": record.quantized,
        "build_seconds": round(seconds, 2),
    }


def engines_of(model: str, recipe: str, target: str, settings: list[str], cache: Cache) -> list[dict[str, Any]]:
    """Run the stages up to the engines and read what they say."""
    table = load_for_model(recipe, [f'model.source="{model}"', *settings])
    if table.precision.mode not in ("fp16", "int8"):
        table = table.model_copy(update={"precision": table.precision.model_copy(update={"mode": "fp16"})})
    job = Job(table, Path(recipe).stem, targets.load(target), 0, cache.root / "digests.json")
    made = Runner(build_graph(job), cache, [view(sys.stderr)]).run(until="engine")
    engines, models = made["engine"], made["precision"]
    assert isinstance(engines, Engines) and isinstance(models, ShippedModels)
    rows = []
    for entry in json.loads((engines.path / "engines.json").read_text()):
        record = read_record((engines.path / "engines" / entry["engine"]).with_suffix(".json"))
        untied = build_untied(models.path, record)
        rows.append(
            {
                "model": model,
                "recipe": recipe,
                **row(record, entry["seconds"]),
                **({"untied": untied} if untied else {}),
            }
        )
    return rows


def main() -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks engines", description=__doc__)
    parser.add_argument(
        "--runs", metavar="MODEL=RECIPE", nargs="+", default=["zoo:vit-cifar10=identity", "zoo:vit-cifar10=quick"]
    )
    parser.add_argument("--target", default="rtx")
    parser.add_argument("--set", dest="settings", metavar="KEY=VALUE", action="append", default=[])
    parser.add_argument("--json", metavar="FILE", type=Path, required=True)
    args = parser.parse_args()
    rows = []
    for run in args.runs:
        model, _, recipe = run.rpartition("=")
        if not model:
            raise InputError(f"--runs {run!r}: expected MODEL=RECIPE, such as zoo:vit-cifar10=quick")
        rows += engines_of(model, recipe, args.target, args.settings, Cache())
    whole = {
        "command": f"python -m benchmarks engines {' '.join(sys.argv[1:])}",
        "tensorrt": trt.load("tensorrt_rtx").label,
        "note": "built, not run: no GPU that this TensorRT supports was at hand",
        "versions": {name: version(name) for name in ("onnx", "onnxruntime", "torch", "numpy")},
        "cpu": cpu_name(),
        "python": platform.python_version(),
        "engines": rows,
    }
    record.save(args.json, whole)
    for one in rows:
        tied = f", untied weights {one['untied']['weights_bytes'] / 1e6:.2f} MB" if "untied" in one else ""
        print(
            f"{one['model']} {one['recipe']} {one['precision']}: ONNX {one['onnx_bytes'] / 1e6:.2f} MB, "
            f"engine {one['engine_bytes'] / 1e6:.2f} MB, weights {(one['weights_bytes'] or 0) / 1e6:.2f} MB{tied}, "
            f"{one['build_seconds']:.1f} s"
        )
    return 0


if __name__ == "__main__":
    run_cli(main)
