"""Measure a healed model as `compress.run` would: export, int8, gate on the whole test set, alternating timing.

For models that were healed elsewhere (on a GPU) and came back as a folder:

    python -m benchmarks measure-healed compress/zoo/vit-cifar10 benchmarks/models/vit-cifar10-full \
        --json benchmarks/results/vit-cifar10-full.json

`--set` puts values over the recipe, such as `--set loops.offer=[4,8] --set loops.exit=0.9`.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import targets
from benchmarks.lab import record
from compress.pipeline import Cache, Runner
from compress.pipeline.view import view
from compress.recipe import load
from compress.stages import healed
from compress.stages.artifacts import Comparison, ShippedModels, Timing
from compress.stages.graph import Job, build_graph
from compress.stages.outcome import deliver, judge
from targets.errors import run_cli


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("original", type=Path)
    parser.add_argument("healed", type=Path)
    parser.add_argument("--data", default="zoo:cifar10-test")
    parser.add_argument("--target", default="jetson")
    parser.add_argument("--out", type=Path, default=Path("out/healed"))
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--set", dest="settings", metavar="KEY=VALUE", action="append", default=[])
    parser.add_argument("--untimed", action="store_true", help="accuracy and bytes alone, while other work runs")
    args = parser.parse_args()
    sources = [f'model.source="{args.original}"', f'data.source="{args.data}"', "precision.mode=int8"]
    recipe = load("identity", [*sources, *args.settings])
    cache = Cache()
    job = Job(recipe, args.healed.name, targets.load(args.target), 0, cache.root / "digests.json")
    runner = Runner(build_graph(job, [healed.stage(job, args.healed)]), cache, [view(sys.stdout)])
    artifacts = runner.run(until="verify" if args.untimed else None)
    comparison, models = artifacts["verify"], artifacts["precision"]
    assert isinstance(comparison, Comparison) and isinstance(models, ShippedModels)
    verdict, reason = judge(comparison)
    document: dict[str, Any] = {
        "command": "python -m benchmarks measure-healed " + " ".join(sys.argv[1:]),
        "versions": {name: version(name) for name in ("torch", "onnx", "onnxruntime", "numpy")},
        "python": platform.python_version(),
        "verdict": verdict,
        "variants": [asdict(file) for file in models.every()],
        "drift": {
            name: json.loads(drift.to_json())
            for drifts in (comparison.drifts(), comparison.variants(), comparison.exits())
            for name, drift in drifts.items()
        },
    }
    for drift in document["drift"].values():
        drift.pop("changed")
    if args.untimed:
        print(f"{verdict}: {reason}")
    else:
        print(deliver(artifacts, args.out).text())
        timing = artifacts["timing"]
        assert isinstance(timing, Timing)
        report = json.loads((args.out / "report" / "report.json").read_text())
        document |= {"variants": report["variants"], "timing": timing.load()}
    record.save(args.json, document)
    return 0


if __name__ == "__main__":
    run_cli(main)
