"""Every rewrite on its own at two or three strengths, before and after the same short healing: the full table.

Usage, from the root of the repository:
    python -m benchmarks rewrites-vit run MODEL DATA FOLDER     # all rows; start several to share the rows among them
    python -m benchmarks rewrites-vit collect FOLDER RESULT.json

MODEL is vit-cifar10 or vit-mnist; DATA as for `compress.data.load`, with the test images in its evaluation part. Each
row is a file of FOLDER, written when it is done, so a run that is cut goes on where it was. `--known RESULT.json` takes
over the rows of an earlier result. Set TORCH_COMPILE_DISABLE=1 where compiling takes longer than healing. Healing is
distillation end to end from the original (hidden states and answers), the same steps, batch and rate for every row; of
its states the one with the lowest KL on held-out training images is scored on the test images. `--steps 0` leaves
healing out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from accelerate import Accelerator

from benchmarks.lab import images as vit_lab
from benchmarks.lab import record
from compress.heal import HealOptions, ImageFeed, heal
from compress.model import Structure, Transformer
from compress.rewrites import REWRITES
from targets.errors import InputError

CALIBRATION = 1000
#: What `collect --brief` leaves out: the name of a row tells its rewrites.
NAMED = {"rewrite", "notes"}
Tables = list[dict[str, Any]]


@dataclass(frozen=True)
class Row:
    """One line of the table: `tables` as a recipe gives them."""

    name: str
    tables: Tables

    @property
    def exact(self) -> bool:
        """Whether the rewritten model computes the same function, so that there is nothing to heal."""
        return bool(self.tables) and all(REWRITES[table["use"]].exact for table in self.tables)


def rows(structure: Structure) -> Iterator[Row]:
    """The table's rows for a model's number of layers and sizes, the most telling first."""
    count, width = len(structure.blocks), structure.hidden_size
    scores = structure.blocks[0].model_dump()["mixer"]["scores"]
    heads, size = int(scores["num_heads"]), int(scores["head_dim"])
    few, some, half, most = count // 6, count // 3, count // 2, 2 * count // 3

    def one(name: str, use: str, **options: Any) -> Row:
        return Row(f"{use}.{name}" if name else use, [{"use": use, **options}])

    def layers(use: str, *numbers: int, suffix: str = "", **options: Any) -> Iterator[Row]:
        for number in numbers:
            chosen = "all" if number == count else f"auto:{number}"
            yield one(f"layers-{number}{suffix}", use, layers=chosen, **options)

    for use in ("fold-norm", "drop-key-bias", "fold-value-bias", "merge-qk", "pack-qkv", "trim-last-block"):
        yield one("", use)
    yield Row("unchanged", [])
    yield from layers("drop-blocks", few, some, half)
    spread = list(range(2, count, 2))
    yield one(f"spread-{len(spread)}", "drop-blocks", layers=spread)
    yield from _minimal(width)
    for rank in (size // 2, size // 4, size // 8):
        yield one(f"rank-{rank}", "low-rank-heads", rank=rank)
        yield one(f"rank-{rank}-values-{rank}", "low-rank-heads", rank=rank, value_rank=rank)
    yield from layers("drop-projection", few, some, count)
    yield from layers("drop-projection", some, count, suffix="-annealed", anneal=True)
    yield from layers("drop-projection", some, count, suffix=f"-rank-{size // 4}", rank=size // 4)
    yield from layers("affine-mlp", few, some, most)
    yield from layers("drop-mlp", few, some, most)
    yield from layers("single-head", few, some, count, rank=size)
    yield from layers("drop-value", few, some, count)
    for rank in (size, size // 2):
        yield one(f"signed-rank-{rank}", "symmetric-qk", rank=rank)
        yield one(f"positive-rank-{rank}", "symmetric-qk", rank=rank, signed=False)
    yield from layers("prune-heads", count, suffix=f"-keep-{heads - 1}", keep=heads - 1)
    yield from layers("prune-heads", half, count, suffix="-keep-1", keep=1)
    yield from layers("low-rank-affine-mlp", some, most, suffix=f"-rank-{width // 4}", rank=width // 4)


def _minimal(width: int) -> Iterator[Row]:
    """The variants of Bermeitinger et al. 2024, all layers: one head with a merged query-key matrix of full rank, with
    or without a value-output matrix and feed-forwards."""
    one_head, merge = {"use": "single-head", "rank": width}, {"use": "merge-qk"}
    no_values, no_mlp = {"use": "drop-projection"}, {"use": "drop-mlp"}
    yield Row("minimal.all-three", [one_head, no_values, no_mlp, merge])
    yield Row("minimal.wqk-no-values", [one_head, no_values, merge])
    yield Row("minimal.wqk-no-mlp", [one_head, no_mlp, merge])
    yield Row("minimal.wqk", [one_head, merge])
    yield Row("minimal.no-mlp", [no_mlp])


#: The rows for a model.
Table = Callable[[Structure], Iterator[Row]]


class Lab(Protocol):
    """Measures rows: `headline` is the score to print of what `measure` finds before and after healing."""

    headline: ClassVar[str]
    teacher: Transformer

    def measure(self, row: Row) -> dict[str, Any]: ...

    @property
    def conditions(self) -> dict[str, Any]: ...


class Bench:
    """A model, its images, and the row at hand."""

    headline: ClassVar[str] = "top1"

    def __init__(self, args: argparse.Namespace, module: str) -> None:
        self.args, self.module = args, module
        self.accelerator = Accelerator(mixed_precision="bf16" if torch.cuda.is_available() else "no")
        device = str(self.accelerator.device)
        self.teacher = vit_lab.original(args.model).to(device)
        train, held_out = vit_lab.training_parts(args.data)
        few = train.subset(np.arange(0, len(train), max(1, len(train) // args.calibration)))
        self.calibration_images = vit_lab.prepared(few, self.teacher, device).images
        preprocessing = self.teacher.structure.preprocessing
        self.train, self.held_out = (
            ImageFeed(dataset, preprocessing, args.seed, self.accelerator.device) for dataset in (train, held_out)
        )
        test = vit_lab.test_images(args.data, args.limit)
        self.test = vit_lab.prepared(test, self.teacher, device)
        self.target_SC = vit_lab.answers(self.teacher, self.test.images)
        self._begun: tuple[Tables, Transformer, list[str]] | None = None
        self.options = HealOptions(
            steps=args.steps,
            batch_size=args.batch,
            lr=args.lr,
            flip=args.model != "vit-mnist",
            eval_every=max(1, args.steps // 5),
            patience=100,
        )

    def measure(self, row: Row) -> dict[str, Any]:
        """Rewrite, heal, score."""
        start = time.monotonic()
        torch.manual_seed(self.args.seed)
        begun, notes = self._beginning(row.tables[:-1])
        calibration = vit_lab.calibration_of(self.teacher, self.calibration_images, notes)
        student = vit_lab.rewritten(begun, row.tables[-1:], calibration)
        logits_SC = vit_lab.answers(student, self.test.images)
        result = {
            "row": row.name,
            "rewrite": row.tables,
            "notes": notes,
            "parameters": student.num_parameters(),
            "block_parameters": vit_lab.block_parameters(student),
            "macs": vit_lab.macs(student),
            "before": self._scores(student),
            "largest_logit_change": float((logits_SC - self.target_SC).abs().max()),
        }
        if row.exact or not self.args.steps:
            return result
        with tempfile.TemporaryDirectory() as work:
            healed = heal(
                student,
                self.teacher,
                self.train,
                self.held_out,
                self.options,
                self.accelerator,
                Path(work),
                lambda done, total, note="", **numbers: None,
            )
        after = self._scores(healed.model.to(self.accelerator.device))
        settled = {
            "parameters": healed.model.num_parameters(),
            "block_parameters": vit_lab.block_parameters(healed.model),
            "macs": vit_lab.macs(healed.model),
        }
        drifts = {
            "held_out_kl_before": round(healed.drift_before, 5),
            "held_out_kl_after": round(healed.drift_after, 5),
        }
        return {**result, **settled, "after": after, **drifts, "seconds": round(time.monotonic() - start, 1)}

    def _beginning(self, tables: Tables) -> tuple[Transformer, list[str]]:
        """The original after these rewrites, and their notes; done once for rows in turn that begin alike."""
        if self._begun is None or self._begun[0] != tables:
            notes: list[str] = []
            calibration = vit_lab.calibration_of(self.teacher, self.calibration_images, notes)
            self._begun = tables, vit_lab.rewritten(self.teacher, tables, calibration), notes
        _, model, notes = self._begun
        return model, list(notes)

    def _scores(self, model: Transformer) -> dict[str, float]:
        logits_SC = vit_lab.answers(model, self.test.images)
        right_S, original_S = (one.argmax(-1) == self.test.labels for one in (logits_SC, self.target_SC))
        return {**vit_lab.scores(logits_SC, self.target_SC, self.test.labels), **vit_lab.drop(right_S, original_S)}

    @property
    def conditions(self) -> dict[str, Any]:
        """What all rows share."""
        return {
            "model": self.args.model,
            "command": record.command(self.module),
            **record.surroundings(),
            "seed": self.args.seed,
            "heal": self.options.model_dump(mode="json"),
            "train_images": len(self.train.dataset),
            "held_out_images": len(self.held_out.dataset),
            "calibration_images": len(self.calibration_images),
            "test_images": len(self.test.labels),
            "original": {
                "parameters": self.teacher.num_parameters(),
                "block_parameters": vit_lab.block_parameters(self.teacher),
                "macs": vit_lab.macs(self.teacher),
                **self._scores(self.teacher),
            },
        }


def run(args: argparse.Namespace, table: Table, module: str, bench: type[Bench] = Bench) -> None:
    """Measure every row of the table that no other process has taken."""
    if torch.cuda.is_available():
        torch.backends.cuda.enable_cudnn_sdp(False)  # its bf16 backward pass has open fault reports on Hopper
        torch.backends.cudnn.allow_tf32 = False
    measure_rows(bench(args, module), args, table)


def measure_rows(bench: Lab, args: argparse.Namespace, table: Table) -> None:
    """Write a file per row into `args.folder`, for the rows that no other process is at."""
    args.folder.mkdir(parents=True, exist_ok=True)
    conditions = bench.conditions
    record.write_json(args.folder / "conditions.json", conditions)
    known = {one["row"]: one for one in record.known_rows(args.known, conditions, ("model", "seed", "heal"))}
    for number, row in enumerate(table(bench.teacher.structure)):
        path = args.folder / f"{number:03d}-{row.name}.json"
        if row.name not in known and args.only and row.name not in args.only:
            continue
        with record.claimed(path) as mine:
            if mine:
                record.write_json(path, known.get(row.name) or _measured(bench, row))


def _measured(bench: Lab, row: Row) -> dict[str, Any]:
    try:
        result = bench.measure(row)
    except InputError as error:
        result = {"row": row.name, "rewrite": row.tables, "refused": str(error)}
    after = {key: result.get(key, {}).get(bench.headline) for key in ("before", "after")}
    print(row.name, result.get("parameters"), result.get("macs"), after, result.get("seconds"), flush=True)
    return result


def collect(args: argparse.Namespace) -> None:
    """Put the rows that are done into one file."""
    files = sorted(args.folder.glob("[0-9][0-9]*-*.json"))
    done = [json.loads(file.read_text()) for file in files if file.stat().st_size]
    if args.brief:
        done = [{key: value for key, value in row.items() if key not in NAMED} for row in done]
    record.save(args.result, {**json.loads((args.folder / "conditions.json").read_text()), "rows": done})
    print(f"{len(done)} of {len(files)} rows are done")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    add_verbs(verbs, {"run": rows}, "rewrites-vit")
    return parser.parse_args()


def add_verbs(verbs: Any, tables: Mapping[str, Table], module: str, bench: type[Bench] = Bench) -> None:
    """A verb for each table of rows, and `collect`; `module` is named in the results."""
    for verb, table in tables.items():
        _add_run(verbs.add_parser(verb), partial(run, table=table, module=module, bench=bench))
    add_collect(verbs)


def add_collect(verbs: Any) -> None:
    """`collect`, of any table whose rows are files in a folder."""
    collecting = verbs.add_parser("collect")
    collecting.set_defaults(run=collect)
    collecting.add_argument("folder", type=Path)
    collecting.add_argument("result", type=Path)
    collecting.add_argument("--brief", action="store_true", help="leave out each row's rewrites and their notes")


def _add_run(running: argparse.ArgumentParser, measure: Callable[[argparse.Namespace], None]) -> None:
    running.set_defaults(run=measure)
    running.add_argument("model", choices=["vit-cifar10", "vit-mnist"])
    running.add_argument("data")
    running.add_argument("folder", type=Path)
    running.add_argument("--steps", type=int, default=1500)
    running.add_argument("--batch", type=int, default=256)
    running.add_argument("--lr", type=float, default=5e-4)
    running.add_argument("--calibration", type=int, default=CALIBRATION, help="about how many training images")
    running.add_argument("--limit", type=int, help="test images")
    running.add_argument("--only", nargs="+", help="names of rows")
    running.add_argument("--known", nargs="+", type=Path, default=[], help="results whose rows are taken over")
    running.add_argument("--seed", type=int, default=0)


def main() -> None:
    """Run the verb."""
    args = arguments()
    args.run(args)


if __name__ == "__main__":
    main()
