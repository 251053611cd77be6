"""What fewer loops and an early exit cost and save, by the probability from which an answer counts.

    python -m benchmarks early-exit --model zoo:vit-mnist --json benchmarks/results/vit-mnist-early-exit.json
    python -m benchmarks early-exit --healed FOLDER --set loops.offer=[6,9] --json F     # healed elsewhere (a GPU)

Runs the recipe up to its answers on every evaluation sample (int8, ONNX Runtime). Each exit is judged as the gate
judges it. `work` is multiply-adds a sample over those of the whole model; a sample that goes on begins anew, so its
earlier tries count too.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import targets
from benchmarks.lab import record
from compress.pipeline import Cache, Runner
from compress.pipeline.view import view
from compress.recipe import load_for_model
from compress.stages import healed
from compress.stages.artifacts import Answers, OnnxModel, ShippedModels
from compress.stages.graph import Job, build_graph
from compress.stages.verify import early_exit
from compress.verification.drift import compare
from compress.verification.gate import parse
from compress.verification.predictions import Predictions
from export.sizes import measure
from runtime.exit import is_sure
from targets.errors import run_cli

PROBABILITIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)


def judged(wanted: Predictions, given: Predictions) -> dict[str, Any]:
    """Top-1 and its drop with the 95 % interval, in points."""
    drift = compare(wanted, given, parse({"check": [{"metric": "top1", "max_drop": 1.0}]}))
    metric = drift.metric("top1")
    assert metric is not None
    values = {"top1": metric.candidate, "drop": metric.drop, "low": metric.low, "high": metric.high}
    return {name: None if value is None else round(value, 3) for name, value in values.items()}


def main() -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="zoo:vit-cifar10")
    parser.add_argument("--recipe", default="early-exit")
    parser.add_argument("--healed", type=Path, help="folder of a model that was rewritten and healed already")
    parser.add_argument("--set", dest="settings", metavar="KEY=VALUE", action="append", default=[])
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    recipe = load_for_model(args.recipe, [f'model.source="{args.model}"', *args.settings])
    cache = Cache()
    job = Job(recipe, args.recipe, targets.load("cpu"), 0, cache.root / "digests.json")
    graph = build_graph(job, [healed.stage(job, args.healed)] if args.healed else None)
    made = Runner(graph, cache, [view(sys.stderr)]).run(until="verify")
    answers, models, exported = made["predict"], made["precision"], made["export"]
    assert isinstance(answers, Answers) and isinstance(models, ShippedModels) and isinstance(exported, OnnxModel)
    reference = made["baseline"]
    assert isinstance(reference, Answers)
    wanted = reference.load()
    files = {**exported.at_loops(), exported.loops: exported.file}
    macs = {loops: measure(path).macs or 0 for loops, path in files.items()}
    entries = sorted(models.every(), key=lambda file: int(file.loops or 0))
    loaded = {file.loops: answers.load(file.path) for file in entries}
    assert isinstance(wanted, Predictions)
    rows = [
        {
            "loops": file.loops,
            "bytes": file.bytes,
            "own_bytes": (models.path / file.path).stat().st_size,
            "macs": macs[file.loops],
            **judged(wanted, loaded[file.loops]),  # type: ignore[arg-type]
        }
        for file in entries
    ]
    whole = exported.loops or 0
    stages = [loops for loops in loaded if loops <= whole]
    exits = [exit_row(wanted, loaded, macs, stages, probability) for probability in PROBABILITIES]
    document = {
        "command": record.command("early-exit"),
        **record.surroundings(),
        "samples": len(wanted),
        "loops": rows,
        "exit_after": stages,
        "exits": exits,
    }
    record.save(args.json, document)
    for row in (*rows, *exits):
        print(json.dumps(row))
    return 0


def exit_row(
    wanted: Predictions, answers: dict[int, Any], macs: dict[int | None, int], stages: list[int], probability: float
) -> dict[str, Any]:
    """An early exit at one probability: what it loses, where samples leave, how much it computes."""
    left, work = {}, 0.0
    rest = ~is_sure(answers[stages[0]].logits, 2.0)  # nobody has left
    for loops in stages:
        sure = is_sure(answers[loops].logits, probability) | (loops == stages[-1])
        work += float(rest.mean()) * macs[loops] / macs[stages[-1]]
        left[loops] = round(float((rest & sure).mean()), 4)
        rest = rest & ~sure
    given = early_exit([answers[loops] for loops in stages], probability)
    assert isinstance(given, Predictions)
    return {"probability": probability, **judged(wanted, given), "left": left, "work": round(work, 3)}


if __name__ == "__main__":
    run_cli(main)
