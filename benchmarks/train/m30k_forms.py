"""Forms of zoo:m30k-de-en, rewritten and healed on one GPU: what a translator loses when its architecture shrinks.

Usage, from the root of the repository:
    python -m benchmarks m30k-forms write PAIRS.jsonl                     # what the original writes, four beams
    python -m benchmarks m30k-forms heal OUT --form t2r --pairs PAIRS.jsonl --steps 4000
    python -m benchmarks m30k-forms heal OUT --form t2r --steps 4 --batch 4 --limit 60     # smoke, on a CPU

Healed is on Multi30k's 29,000 training pairs (those of up to 32 tokens a side), and on `--pairs`, the same sources with
what the original writes for them (sequence-level distillation, Kim and Rush 2016, arXiv 1606.07947). OUT gets
structure.json, model.safetensors (fp16), heal.json and notes.json; `python -m benchmarks translation` makes a bundle of
such a folder and measures it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from benchmarks.lab import record
from benchmarks.lab.training import Log, of_healing
from compress import tasks, zoo
from compress.data.pairs.prepared import PreparedPairs
from compress.heal import HealOptions, heal
from compress.heal.pairs import PairFeed
from compress.model import Transformer, save
from compress.rewrites import Calibration, parse_options, run_rewrite
from compress.rewrites.stacks import DECODER, ENCODER, STACKS
from compress.tasks import read_checkpoint
from compress.tasks.task import DataChoice

MODEL, DATA = "zoo:m30k-de-en", "zoo:m30k"
Tables = list[dict[str, Any]]


def _in(stack: str, use: str, **options: Any) -> dict[str, Any]:
    return {"use": use, "stack": stack, **options}


def _both(use: str, **options: Any) -> Tables:
    return [_in(stack, use, **options) for stack in STACKS]


def _tied(**options: Any) -> Tables:
    """One block in place of the three of each stack."""
    return [*_both("align-layers"), *_both("tie-layers", grouping="cycle", blocks=1, **options)]


T2R = _in(DECODER, "linear-attention", feature="t2r", size=32)
CROSS = _in(DECODER, "linear-cross", feature="t2r", size=32)
ONE_LAYER = _in(DECODER, "drop-blocks", layers=[1, 2])
MINIMAL = [*_both("single-head", rank=32, layers="auto:2"), *_both("affine-mlp", layers="auto:2")]
#: From 3 + 3 layers of 128 dimensions, four heads, 512 hidden units.
FORMS: dict[str, Tables] = {
    "t2r": [T2R],
    "hybrid": [_in(DECODER, "hybrid", window=8)],
    "linear-cross": [CROSS],
    "constant": [T2R, CROSS],
    "two-layers": [_in(DECODER, "drop-blocks", layers="auto:1")],
    "one-layer": [ONE_LAYER],
    "ring": _tied(signal_rank=8),
    "tied": _tied(),
    "deltas": _tied(delta_rank=8),
    "minimal": MINIMAL,
    "listed": [*MINIMAL, _in(DECODER, "shortlist")],
    "small": [ONE_LAYER, _in(ENCODER, "prune-neurons", keep=384)],
    "small-constant": [ONE_LAYER, _in(ENCODER, "prune-neurons", keep=384), T2R, CROSS],
}
CALIBRATION, HELD_OUT, LONGEST = 512, 256, 32


def prepared(source: str, limit: int | None, part: Any) -> PreparedPairs:
    """The pairs of a part for the original."""
    folder = zoo.locate(MODEL)
    task = tasks.of_folder(folder)
    data = task.open(DataChoice(source, limit, True, 0), part, None, task.preprocessing(folder, print), folder)
    assert isinstance(data, PreparedPairs)
    return data


def short(data: PreparedPairs) -> np.ndarray:
    """Indices of the pairs of up to LONGEST tokens a side, so that batches have one shape."""
    return np.array([index for index, pair in enumerate(data.texts) if max(map(len, pair)) <= LONGEST])


@torch.no_grad()
def write(args: argparse.Namespace) -> None:
    """Write what the original makes of the training sources."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    folder = zoo.locate(MODEL)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    model = AutoModelForSeq2SeqLM.from_pretrained(str(folder), dtype=torch.float32).to(device).eval()
    sources = [row.texts[0] for row in prepared(DATA, None, "healing").dataset.rows][: args.limit]
    order = sorted(range(len(sources)), key=lambda index: len(sources[index]))
    texts = [""] * len(sources)
    for start in range(0, len(order), args.batch):
        indices = order[start : start + args.batch]
        inputs = tokenizer([sources[index] for index in indices], return_tensors="pt", padding=True).to(device)
        ids = model.generate(
            input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, num_beams=4, max_length=64
        )
        for index, text in zip(indices, tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True):
            texts[index] = text
        print(f"{start + len(indices):,} of {len(order):,}", flush=True)
    lines = (
        json.dumps({"source": source, "target": text}, ensure_ascii=False)
        for source, text in zip(sources, texts, strict=True)
        if text.strip()
    )
    args.pairs.write_text("\n".join(lines) + "\n", encoding="utf-8")


def rewritten(model: Transformer, tables: Tables, data: PreparedPairs, notes: list[str]) -> Transformer:
    """The model after a form's rewrites, calibrated on the first pairs, on the CPU."""
    original = model

    def batches(count: int) -> Iterator[dict[str, Tensor]]:
        for inputs in data.calibration(128, range(min(count, len(data)))):
            yield {name: torch.from_numpy(array) for name, array in inputs.items()}

    few, every = partial(batches, CALIBRATION), partial(batches, len(data))
    for table in tables:
        calibration = Calibration(original, few, notes.append, every)
        model = run_rewrite(*parse_options(table), model, calibration, table["stack"])
    return model


def run_heal(args: argparse.Namespace) -> None:
    """Rewrite, heal for a number of steps, round to fp16, save."""
    torch.manual_seed(args.seed)
    accelerator = Accelerator(mixed_precision="bf16" if torch.cuda.is_available() else "no")
    device, task = accelerator.device, tasks.of_folder(zoo.locate(MODEL))
    data = prepared(DATA, args.limit, "healing")
    teacher = read_checkpoint(zoo.locate(MODEL), task.preprocessing(zoo.locate(MODEL), print))
    chosen = short(data)
    chosen = chosen[np.random.default_rng(args.seed).permutation(len(chosen))]
    count = min(HELD_OUT, len(chosen) // 4)
    held_out, rest = data.subset(chosen[:count]), data.subset(chosen[count:])
    notes: list[str] = []
    student = rewritten(teacher, FORMS[args.form], rest, notes)
    texts = list(rest.texts)
    if args.pairs:
        kept_out = {tuple(data.texts[index][0]) for index in chosen[:count]}
        taught = prepared(str(args.pairs), args.limit, "healing")
        texts += [taught.texts[index] for index in short(taught) if tuple(taught.texts[index][0]) not in kept_out]
    print(*notes, f"{len(texts):,} pairs to heal on", sep="\n", flush=True)
    learned = any(one["use"] in ("linear-attention", "linear-cross", "hybrid") for one in FORMS[args.form])
    options = HealOptions(
        attention_steps=args.attention_steps if learned else 0,
        steps=args.steps,
        batch_size=args.batch,
        lr=args.lr,
        temperature=1.0,
        hidden=args.hidden,
        task=args.task,
        average=0.998,
        eval_every=max(1, args.steps // 20),
        patience=100,
    )
    feeds = tuple(PairFeed(pairs, rest.spec, args.seed, device) for pairs in (texts, held_out.texts))
    log = Log(every=500)
    with tempfile.TemporaryDirectory() as work:
        result = heal(student, teacher, *feeds, options, accelerator, Path(work), log, task.objective)
    model = result.model.half().float()
    save(model.copy().half(), args.out)
    text = f"{args.form}, healed on {len(texts):,} pairs for {result.steps} steps"
    record.write_json(
        args.out / "notes.json",
        {"text": text, "parameters": model.num_parameters(), "remarks": [text]},
    )
    record.save(
        args.out / "heal.json",
        {
            "form": args.form,
            **of_healing("m30k-forms", teacher, FORMS[args.form], notes, options, result, log),
            "pairs": len(texts),
            "drift_before": result.drift_before,
            "drift_after": result.drift_after,
        },
    )
    print(args.form, result.drift_before, result.drift_after, flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    writing = commands.add_parser("write")
    writing.add_argument("pairs", type=Path)
    writing.add_argument("--batch", type=int, default=512)
    writing.add_argument("--limit", type=int)
    writing.set_defaults(run=write)
    healing = commands.add_parser("heal")
    healing.add_argument("out", type=Path)
    healing.add_argument("--form", choices=sorted(FORMS), required=True)
    healing.add_argument("--pairs", type=Path, help="more pairs to heal on")
    healing.add_argument("--steps", type=int, default=4000)
    healing.add_argument("--attention-steps", type=int, default=1000)
    healing.add_argument("--batch", type=int, default=256)
    healing.add_argument("--lr", type=float, default=1e-3)
    healing.add_argument("--hidden", type=float, default=0.3)
    healing.add_argument("--task", type=float, default=0.0)
    healing.add_argument("--limit", type=int)
    healing.add_argument("--seed", type=int, default=0)
    healing.set_defaults(run=run_heal)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
