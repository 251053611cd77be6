"""Linear attention in stories260k: perplexity against the original by feature map, number of features and training.

Usage, from the root of the repository:
    python -m benchmarks linear-stories rows OUT --shakespeare input.txt       # any number of processes share the rows
    python -m benchmarks linear-stories rows OUT --shakespeare input.txt --only hybrid-hedgehog-16 --steps 2   # smoke
    python -m benchmarks linear-stories collect OUT RESULT.json --known benchmarks/results/linear-stories260k.json

Each row converts all five layers, trains the new parts by attention transfer (or not), then all weights by KL to the
original. Texts to train on are written by the original, as are those to evaluate on (with another seed);
tinyshakespeare is what neither has seen. Every row has a file in OUT, written when it is done: a run that is cut goes
on where it was. Rows of `--known RESULT.json` are not done again.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from benchmarks.lab import record
from benchmarks.lab import texts as text_lab
from compress.heal.attention_transfer import AttentionTransfer
from compress.model import Transformer
from compress.model.forms.streaming import Streaming
from compress.rewrites import Calibration, parse_options, run_rewrite
from compress.tasks import read_checkpoint
from compress.zoo import locate

LENGTH, FIRST = 256, 1  # tokens of a row; the token that starts a story
SIZES = (8, 16, 32, 64)
WINDOW = 16


def tables() -> dict[str, dict[str, Any]]:
    """Row name -> the rewrite."""
    linear = {
        f"{feature}-{size}": {"use": "linear-attention", "feature": feature, "size": size}
        for feature in ("t2r", "hedgehog", "performer")
        for size in SIZES
    }
    hybrid = {
        f"hybrid-{feature}-{size}": {"use": "hybrid", "feature": feature, "size": size, "window": WINDOW}
        for feature in ("hedgehog", "t2r")
        for size in SIZES
    }
    return {"elu": {"use": "linear-attention", "feature": "elu"}, **linear, **hybrid}


def rows() -> list[tuple[str, dict[str, Any], bool]]:
    """Name, rewrite, and whether attention transfer comes first: with and without it where there is what to learn."""
    found = []
    for name, table in tables().items():
        learns = table["feature"] in ("t2r", "hedgehog")
        found += [
            (f"{name}-{'transfer' if first else 'direct'}", table, first)
            for first in ([True, False] if learns else [False])
        ]
    return found


def texts(model: Transformer, count: int, seed: int, device: str) -> Tensor:
    """Stories that the original writes (count, LENGTH)."""
    generator = torch.Generator(device=device).manual_seed(seed)
    parts = [
        text_lab.sampled(model, torch.full((min(256, count), 1), FIRST, device=device), LENGTH, generator)
        for _ in range(-(-count // 256))
    ]
    return torch.cat(parts)[:count]


def run_rows(args: argparse.Namespace) -> None:
    """Do the rows that no other process has begun."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    teacher = read_checkpoint(locate("zoo:stories260k"), {}).to(device).requires_grad_(False)
    tokenizer = Tokenizer.from_file(str(locate("zoo:stories260k") / "tokenizer.json"))
    shakespeare = text_lab.rows_of(text_lab.token_ids(tokenizer, text_lab.read_text(args.shakespeare)), LENGTH)
    known = {
        "own_text": texts(teacher, args.evaluate, 1, device),
        "tinyshakespeare": shakespeare[: args.evaluate].to(device),
    }
    training_BN = texts(teacher, args.texts, 2, device)
    args.out.mkdir(parents=True, exist_ok=True)
    there = {row["name"] for row in known_rows(args)}
    for name, table, transfers in rows():
        if name in there or (args.only and not any(part in name for part in args.only)):
            continue
        path = args.out / f"{name}.json"
        with record.claimed(path) as mine:
            if not mine:
                continue
            begun = time.monotonic()
            result = one_row(teacher, table, transfers, training_BN, known, args)
            result["seconds"] = round(time.monotonic() - begun, 1)
            record.write_json(path, {"name": name, **result})
            print(name, result["perplexity"], result["seconds"], flush=True)


def one_row(
    teacher: Transformer,
    table: dict[str, Any],
    transfers: bool,
    training_BN: Tensor,
    known: dict[str, Tensor],
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Convert, train, measure after each step."""
    torch.manual_seed(0)
    inputs = [{"input_ids": part} for part in training_BN[:32].split(8)]
    notes: list[str] = []
    calibration = Calibration(teacher, lambda: iter(inputs), notes.append)
    student = run_rewrite(*parse_options(table), teacher, calibration).requires_grad_(False)
    perplexity = {"original": measured(teacher, known), "converted": measured(student, known)}
    stream = text_lab.batches(training_BN, args.batch, seed=3)
    if transfers:
        transfer = AttentionTransfer.of(student, teacher)
        for parameter in transfer.parameters:
            parameter.requires_grad_(True)
        loss = partial(_transfer_loss, transfer)
        text_lab.train(transfer.parameters, loss, stream, 1e-2, steps=args.steps)
        perplexity["transferred"] = measured(student, known)
    student.requires_grad_(True)
    text_lab.train(list(student.parameters()), partial(_kl, teacher, student), stream, 1e-3, steps=2 * args.steps)
    perplexity["healed"] = measured(student, known)
    state = [tensor for one in Streaming(student).flat for tensor in [one.fresh(1)]]
    return {
        "rewrite": table,
        "transfer": transfers,
        "steps": [args.steps if transfers else 0, 2 * args.steps],
        "batch": args.batch,
        "perplexity": perplexity,
        "state_bytes": sum(tensor.numel() * tensor.element_size() for tensor in state),
        "parameters": student.num_parameters(),
        "notes": notes,
        "command": record.command("linear-stories"),
        **record.surroundings(),
    }


def _transfer_loss(transfer: AttentionTransfer, part_BN: Tensor) -> Tensor:
    return transfer.loss({"input_ids": part_BN}, 0.0)


def _kl(teacher: Transformer, student: Transformer, part_BN: Tensor) -> Tensor:
    inputs = {"input_ids": part_BN}
    with torch.no_grad():
        target_BNV = teacher(inputs)
    return text_lab.kl_per_token(student(inputs), target_BNV)


def measured(model: Transformer, known: dict[str, Tensor]) -> dict[str, float]:
    """Perplexity on each text."""
    return {name: round(text_lab.perplexity(text_lab.losses(model, rows_BN, 16)), 4) for name, rows_BN in known.items()}


def known_rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of `--known`, each with the surroundings that they share there."""
    known = json.loads(args.known.read_text()) if args.known else {"rows": []}
    shared = {key: value for key, value in known.items() if key != "rows"}
    return [{**shared, **row} for row in known["rows"]]


def collect(args: argparse.Namespace) -> None:
    """All rows in one file; what all of them share is said once."""
    done = [path for path in sorted(args.out.glob("*.json")) if path.stat().st_size]
    found = {row["name"]: row for row in [*known_rows(args), *(json.loads(path.read_text()) for path in done)]}
    first, *_ = found.values()
    shared = {
        key: value
        for key, value in first.items()
        if key != "name" and all(row.get(key) == value for row in found.values())
    }
    rest = [
        {key: value for key, value in found[name].items() if key not in shared} for name, *_ in rows() if name in found
    ]
    record.save(args.result, {**shared, "rows": rest})
    for row in rest:
        print(row["name"], {step: values["own_text"] for step, values in row["perplexity"].items()})


def main() -> None:
    """Run the verb."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    running = verbs.add_parser("rows")
    running.set_defaults(run=run_rows)
    running.add_argument("out", type=Path)
    running.add_argument("--shakespeare", type=Path, required=True)
    running.add_argument("--only", nargs="+", help="rows whose names have one of these in them")
    running.add_argument("--steps", type=int, default=600, help="of attention transfer; twice as many of KL")
    running.add_argument("--batch", type=int, default=32)
    running.add_argument("--texts", type=int, default=8192)
    running.add_argument("--evaluate", type=int, default=256, help="rows to evaluate on, of each text")
    collecting = verbs.add_parser("collect")
    collecting.set_defaults(run=collect)
    collecting.add_argument("out", type=Path)
    collecting.add_argument("result", type=Path)
    for verb in (running, collecting):
        verb.add_argument("--known", type=Path, help="an earlier result, whose rows are taken over")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
