"""MiniLM made small: find and heal candidates (one GPU), and measure one as `compress.run` would (a quiet CPU).

Usage, from the root of the repository:
    python -m benchmarks minilm heal MODEL OUT --candidate gentle --texts FILE... --seconds 240       # one GPU
    python -m benchmarks minilm heal MODEL OUT --candidate narrow --steps 2 --batch 8 --limit 200     # smoke, on a CPU
    python -m benchmarks minilm measure zoo:minilm OUT --json benchmarks/results/minilm-gentle.json   # two quiet cores
    python -m benchmarks minilm measure zoo:minilm quick --json benchmarks/results/minilm-quick.json  # a recipe of ours

MODEL: a folder of all-MiniLM-L6-v2 or of a classifier made of it (fp16 weights do). Healed is on the texts of the zoo's
data set for the task and on those of `--texts` (.txt .tsv .csv .jsonl, also .gz; labels and scores are not read), never
on texts that are evaluated on. OUT gets structure.json, model.safetensors (fp16),
heal.json and notes.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

import targets
from benchmarks.lab import record
from benchmarks.lab.training import Log, of_healing
from compress import tasks, zoo
from compress.data import TextDataset, load_texts
from compress.data.prepared_texts import PreparedTexts, prepare_texts
from compress.heal import HealOptions, heal
from compress.heal.texts import TextFeed
from compress.model import Transformer, save
from compress.pipeline import Cache, Runner
from compress.pipeline.view import view
from compress.recipe import load_for_model
from compress.rewrites import Calibration, parse_options, run_rewrite
from compress.stages import healed
from compress.stages.artifacts import Answers, Comparison, Timing
from compress.stages.graph import Job, build_graph
from compress.stages.outcome import deliver
from compress.tasks import read_checkpoint
from compress.tasks.task import Task
from compress.verification.estimate import Sampling, estimate_drop
from compress.verification.metrics import METRICS
from compress.verification.predictions import EmbeddedPairs


def _table(rank: int) -> dict[str, Any]:
    return {"use": "low-rank-embedding", "rank": rank}


def _heads(rank: int) -> dict[str, Any]:
    return {"use": "low-rank-heads", "rank": rank, "value_rank": rank}


def _neurons(keep: int) -> dict[str, Any]:
    return {"use": "prune-neurons", "keep": keep}


EXACT: list[dict[str, Any]] = [{"use": "drop-key-bias"}, {"use": "fold-value-bias"}]
#: From a table of 384 columns, heads of 32 dimensions, 1,536 hidden units, six blocks; from little to much that goes.
CANDIDATES: dict[str, list[dict[str, Any]]] = {
    "gentle": [*EXACT, _table(224), _neurons(1152)],
    "wide": [*EXACT, _table(128), _heads(24), _neurons(1152)],
    "four-blocks": [*EXACT, _table(224), {"use": "drop-blocks", "layers": "auto:2"}],
    "four-thin": [*EXACT, _table(128), {"use": "drop-blocks", "layers": [1, 3]}, _neurons(1152)],
    "narrow": [*EXACT, _table(128), _heads(16), _neurons(768)],
    "thin": [*EXACT, _table(128), _heads(12), _neurons(512)],
    "three-thin": [*EXACT, _table(128), {"use": "drop-blocks", "layers": [1, 3, 4]}, _heads(24), _neurons(1152)],
    "three-narrow": [*EXACT, _table(128), {"use": "drop-blocks", "layers": [1, 3, 4]}, _heads(16), _neurons(768)],
}
CALIBRATION, HELD_OUT = 1024, 512


def data_of(task: Task) -> str:
    """What the zoo has for the task."""
    return "zoo:sst2" if task.name == "text-classification" else "zoo:sts"


def texts_of(task: Task, files: list[str], limit: int | None, seed: int) -> TextDataset:
    """Different texts without labels, none of which is evaluated on, in a seeded order."""
    source = data_of(task)
    tested = {text for row in load_texts(source, part="evaluation").rows for text in row.texts}
    whole = load_texts(source, part="healing").singles()
    rows = {row.texts[0]: row for row in whole.rows}
    for file in files:
        rows |= {row.texts[0]: row for row in load_texts(file, skip_corrupt=True).singles().rows}
    kept = [row for text, row in rows.items() if text not in tested]
    order = np.random.default_rng(seed).permutation(len(kept))[:limit]
    return TextDataset(whole.location, tuple(kept[index] for index in order))


def rewritten(model: Transformer, tables: list[dict[str, Any]], data: PreparedTexts, notes: list[str]) -> Transformer:
    """The model after a candidate's rewrites, calibrated on these texts."""
    device = next(model.parameters()).device
    original = model

    def batches() -> Any:
        for inputs in data.calibration(128, range(len(data))):
            yield {name: torch.from_numpy(array).to(device) for name, array in inputs.items()}

    for table in tables:
        model = run_rewrite(*parse_options(table), model, Calibration(original, batches, notes.append))
    return model


@torch.no_grad()
def agreement(task: Task, model: Transformer, other: Transformer, batches: list[dict[str, Tensor]]) -> float:
    """Mean agreement of the answers."""
    parts = [task.agreement(model(inputs), other(inputs), inputs) for inputs in batches]
    return float(torch.cat(parts).mean())


def run_heal(args: argparse.Namespace) -> None:
    """Rewrite, heal for a given time or number of steps, round to fp16, save."""
    torch.manual_seed(args.seed)
    accelerator = Accelerator(mixed_precision="bf16" if torch.cuda.is_available() else "no")
    device = accelerator.device
    task = tasks.of_folder(args.model)
    teacher = read_checkpoint(args.model, task.preprocessing(args.model, print)).to(device)
    dataset = texts_of(task, args.texts, args.limit, args.seed)
    data = prepare_texts(dataset, teacher.structure.preprocessing, args.model)
    held_out, rest = (
        data.subset(range(min(HELD_OUT, len(data) // 4))),
        data.subset(range(min(HELD_OUT, len(data) // 4), len(data))),
    )
    notes: list[str] = []
    few = rest.subset(range(min(CALIBRATION, len(rest))))
    student = rewritten(teacher, CANDIDATES[args.candidate], few, notes)
    print(*notes, f"{len(rest):,} texts to heal on", sep="\n", flush=True)
    options = HealOptions(
        steps=args.steps,
        batch_size=args.batch,
        lr=args.lr,
        eval_every=max(1, args.steps // 20),
        patience=100,
    )
    feeds = tuple(TextFeed(part.ids, None, 0, part.spec, args.seed, device) for part in (rest, held_out))

    def healed(options: HealOptions, log: Log) -> Any:
        with tempfile.TemporaryDirectory() as work:
            return heal(student, teacher, *feeds, options, accelerator, Path(work), log, task.objective)

    if args.seconds:
        started, log = time.monotonic(), Log(every=100)
        healed(options.replace(steps=400, eval_every=400), log)
        (first, begin, *_), (last, end, *_) = log.curve[0], log.curve[-1]
        rate = (last - first) / max(end - begin, 1e-3)
        steps = max(1, int((args.seconds - (time.monotonic() - started)) * rate))
        options = options.replace(steps=steps, eval_every=max(1, steps // 20))
        print(f"{rate:.1f} steps a second: {steps} steps", flush=True)
    log = Log(every=500)
    result = healed(options, log)
    model = result.model.half().float()
    save(model.copy().half(), args.out)
    batches = feeds[1].plain(128)
    after, count = agreement(task, teacher, model.to(device), batches), len(held_out)
    remark = f"{args.candidate}, healed on {len(rest):,} texts"
    notes_json = {"text": task.agreement_text(after, count), "parameters": model.num_parameters(), "remarks": [remark]}
    record.write_json(args.out / "notes.json", notes_json)
    record.save(
        args.out / "heal.json",
        {
            "candidate": args.candidate,
            **of_healing("minilm", teacher, CANDIDATES[args.candidate], notes, options, result, log),
            "texts": len(rest),
            "held_out": {
                "before": round(agreement(task, teacher, student, batches), 5),
                "after": round(after, 5),
                "drift_name": task.objective.drift_name,
                "drift_before": result.drift_before,
                "drift_after": result.drift_after,
            },
        },
    )
    print(json.loads((args.out / "heal.json").read_text())["held_out"], flush=True)


def measure(args: argparse.Namespace) -> None:
    """Export, int8, gate, time beside the original and its dynamic int8; Spearman of each set of the data."""
    cache = Cache()
    folder = Path(args.healed)
    data = args.data or data_of(tasks.of_folder(zoo.locate(args.model)))
    settings = [f"{name}={json.dumps(value)}" for name, value in (("model.source", args.model), ("data.source", data))]
    recipe = load_for_model("identity" if folder.is_dir() else args.healed, [*settings, "precision.mode=int8"])
    recipe = recipe.replace(gate=recipe.gate.replace(max_drop=args.max_drop))
    job = Job(recipe, folder.name, targets.load(args.target), 0, cache.root / "digests.json")
    graph = build_graph(job, [healed.stage(job, folder)] if folder.is_dir() else None)
    artifacts = Runner(graph, cache, [view(sys.stdout)]).run()
    outcome = deliver(artifacts, args.out)
    print(outcome.text())
    comparison, timing = artifacts["verify"], artifacts["timing"]
    assert isinstance(comparison, Comparison) and isinstance(timing, Timing)
    reference, candidates, int8 = (artifacts[name] for name in ("baseline", "predict", "predict-int8"))
    assert isinstance(reference, Answers) and isinstance(candidates, Answers) and isinstance(int8, Answers)
    report = json.loads((args.out / "report" / "report.json").read_text())
    drifts = {name: json.loads(drift.to_json()) for name, drift in comparison.drifts().items()}
    record.save(
        args.json,
        {
            "command": record.command("minilm"),
            "versions": {name: version(name) for name in ("torch", "onnx", "onnxruntime", "numpy", "tokenizers")},
            **record.surroundings(),
            "verdict": outcome.verdict,
            "reason": outcome.reason,
            "variants": report["variants"],
            "timing": timing.load(),
            "drift": {name: {**drift, "changed": []} for name, drift in drifts.items()},
            "sets": {
                name: by_set(job.data.source, reference.load(), answers)
                for name, answers in {
                    "original int8 dynamic": int8.load("dynamic.onnx"),
                    **{name: candidates.load(name) for name in drifts},
                }.items()
            },
        },
    )


def by_set(source: str, reference: Any, candidate: Any) -> dict[str, dict[str, float]]:
    """Spearman x 100 of both sides and the drop with its 95 % interval, in all STS sets together and in SICK."""
    if source != "zoo:sts" or not isinstance(reference, EmbeddedPairs):
        return {}
    import gzip

    lines = gzip.decompress((zoo.FOLDER / "text" / "sts" / "test.tsv.gz").read_bytes()).decode().splitlines()[1:]
    sick = np.array([line.rsplit("\t", 1)[1].startswith("SICK") for line in lines])
    metric, found = METRICS["spearman"], {}
    for name, mask in (("STS 2012-2014", ~sick), ("SICK trial", sick)):
        rows = (metric.rows(reference.take(mask)), metric.rows(candidate.take(mask)))
        estimate = estimate_drop(metric, *rows, Sampling())
        assert estimate.interval is not None
        found[name] = {
            "pairs": int(mask.sum()),
            "original": round(float(estimate.reference or 0), 3),
            "candidate": round(float(estimate.candidate or 0), 3),
            "drop": round(estimate.value, 3),
            "low": round(estimate.interval.low, 3),
            "high": round(estimate.interval.high, 3),
        }
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    healing = commands.add_parser("heal")
    healing.add_argument("model", type=Path)
    healing.add_argument("out", type=Path)
    healing.add_argument("--candidate", choices=sorted(CANDIDATES), required=True)
    healing.add_argument("--texts", nargs="*", default=[], help="more texts to heal on")
    healing.add_argument("--seconds", type=float, default=0.0, help="of healing; 0: as many steps as given")
    healing.add_argument("--steps", type=int, default=2000)
    healing.add_argument("--batch", type=int, default=128)
    healing.add_argument("--lr", type=float, default=5e-4)
    healing.add_argument("--limit", type=int)
    healing.add_argument("--seed", type=int, default=0)
    healing.set_defaults(run=run_heal)
    measuring = commands.add_parser("measure")
    measuring.add_argument("model", help="zoo:minilm or a folder")
    measuring.add_argument("healed", help="what `heal` wrote, or the name of a built-in recipe")
    measuring.add_argument("--data", help="what to measure on (default: the zoo's for the task)")
    measuring.add_argument("--target", default="cpu")
    measuring.add_argument("--max-drop", type=float, default=1.5)
    measuring.add_argument("--out", type=Path, default=Path("out/minilm"))
    measuring.add_argument("--json", type=Path, required=True)
    measuring.set_defaults(run=measure)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
