"""Every rewrite on its own at two or three strengths on a decoder: perplexity before and after the same short healing.

Usage, from the root of the repository:
    python -m benchmarks rewrites-text run zoo:stories260k FOLDER          # all rows; several processes share the rows
    python -m benchmarks rewrites-text run zoo:smollm2 FOLDER --evaluate valid.txt --text input.txt --length 1024
    python -m benchmarks rewrites-text collect FOLDER RESULT.json

The model is a zoo name or a Hugging Face folder. `--evaluate` and `--text` are files of plain text, the latter for
fits and healing; without them they are the two parts of zoo:stories. Each row is a file of FOLDER, written when it is
done, so a run that is cut keeps what it has. Healing minimizes the KL to the original's next tokens, the same steps,
batch and rate for every row; `--steps 0` leaves it out. The teacher of smollm2 is a dequantized Q4_1 file.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from tokenizers import Tokenizer
from torch import Tensor

from benchmarks.experiments.rewrites_vit import Row, add_collect, measure_rows
from benchmarks.lab import images as vit_lab
from benchmarks.lab import record
from benchmarks.lab import texts as text_lab
from compress import zoo
from compress.data import load_texts
from compress.model import Structure, Transformer
from compress.model.embeds.token import TokenEmbedSpec
from compress.rewrites import Calibration
from compress.tasks import read_checkpoint


def rows(structure: Structure) -> Iterator[Row]:
    """The table's rows for a decoder's number of layers and sizes."""
    count, width = len(structure.blocks), structure.hidden_size
    block = structure.blocks[0].model_dump()
    size, hidden = int(block["mixer"]["values"]["head_dim"]), int(block["ffn"]["intermediate_size"])
    heads, groups = (int(block["mixer"]["scores"][name]) for name in ("num_heads", "num_kv_heads"))
    some = [max(1, count // 6), max(1, count // 3)]

    def one(name: str, use: str, **options: Any) -> Row:
        return Row(f"{use}.{name}" if name else use, [{"use": use, **options}])

    yield Row("unchanged", [])
    for use in ("fold-norm", "drop-key-bias", "fold-value-bias", "pack-qkv"):
        yield one("", use)
    for rank in (3 * width // 4, width // 2, width // 4):
        yield one(f"rank-{rank}", "low-rank-embedding", rank=rank)
    for rank in (3 * size // 4, size // 2):
        yield one(f"values-{rank}", "low-rank-heads", value_rank=rank)
    for keep in (3 * hidden // 4, hidden // 2, hidden // 4):
        yield one(f"keep-{keep}", "prune-neurons", keep=keep)
    for number in dict.fromkeys(some):
        layers = f"auto:{number}"
        yield one(f"layers-{number}", "affine-mlp", layers=layers)
        yield one(f"layers-{number}-rank-{width // 4}", "low-rank-affine-mlp", layers=layers, rank=width // 4)
        yield one(f"layers-{number}", "drop-mlp", layers=layers)
        yield one(f"layers-{number}", "drop-value", layers=layers)
        yield one(f"layers-{number}", "drop-projection", layers=layers)
        yield one(f"layers-{number}-rank-{size // 2}", "drop-projection", layers=layers, rank=size // 2)
        yield one(f"layers-{number}", "drop-blocks", layers=layers)
        yield one(f"layers-{number}", "affine-patch", layers=layers)
    middle = count - 2
    if middle > 1:
        yield one("middle-1", "tie-layers", grouping="middle", blocks=1)
        yield one(f"middle-1-deltas-{width // 8}", "tie-layers", grouping="middle", blocks=1, delta_rank=width // 8)
    for feature in ("elu", "t2r", "hedgehog"):
        yield one(f"{feature}-layers-{some[-1]}", "linear-attention", feature=feature, layers=f"auto:{some[-1]}")
    yield one(f"layers-{count}", "hybrid", feature="hedgehog", window=32)
    yield one("keep-half", "prune-heads", keep=max(1, groups // 2) * (heads // groups))
    for part in (one for one in (2, 4) if groups % one == 0):
        yield one(f"groups-{groups // part}", "grouped-heads", groups=groups // part)
    for use, options in (("merge-qk", {}), ("symmetric-qk", {"rank": size}), ("single-head", {"rank": size})):
        yield one("", use, **options)


class TextBench:
    """A decoder, its texts as rows of token ids, and the row at hand."""

    headline: ClassVar[str] = "perplexity"

    def __init__(self, args: argparse.Namespace, module: str) -> None:
        self.args, self.module = args, module
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        folder = zoo.locate(args.model)
        self.teacher = read_checkpoint(folder, {}).to(self.device).requires_grad_(False)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.no_truncation()
        self.test = self._rows(tokenizer, args.evaluate, "evaluation")[: args.limit].to(self.device)
        self.train = self._rows(tokenizer, args.text, "healing").to(self.device)
        self.loss_BN = text_lab.losses(self.teacher, self.test, args.batch)

    def _rows(self, tokenizer: Tokenizer, file: Path | None, part: Any) -> Tensor:
        if file is not None:
            text = text_lab.read_text(file)
        else:
            text = "<s>".join(row.texts[0] for row in load_texts("zoo:stories", part=part).rows)
        return text_lab.rows_of(text_lab.token_ids(tokenizer, text), self.args.length)

    def measure(self, row: Row) -> dict[str, Any]:
        """Rewrite, heal, score."""
        start = time.monotonic()
        torch.manual_seed(self.args.seed)
        notes: list[str] = []
        student = vit_lab.rewritten(self.teacher, row.tables, self._calibration(notes))
        result = {
            "row": row.name,
            "rewrite": row.tables,
            "notes": notes,
            **self._sizes(student),
            "before": self._scores(student),
        }
        if row.exact or not self.args.steps or not row.tables:
            return result
        healed = self._healed(student)
        return {**result, "after": self._scores(healed), "seconds": round(time.monotonic() - start, 1)}

    def _calibration(self, notes: list[str]) -> Calibration:
        few = self.train[:: max(1, len(self.train) // self.args.calibration)][: self.args.calibration]
        parts = few.split(self.args.batch)
        return Calibration(self.teacher, lambda: ({"input_ids": part} for part in parts), notes.append)

    def _healed(self, student: Transformer) -> Transformer:
        student = student.requires_grad_(True).train()

        def loss(rows_BN: Tensor) -> Tensor:
            with torch.no_grad():
                target_BNV = self.teacher({"input_ids": rows_BN})
            return text_lab.kl_per_token(student({"input_ids": rows_BN}), target_BNV)

        batches = text_lab.batches(self.train, self.args.batch, self.args.seed)
        text_lab.train(list(student.parameters()), loss, batches, self.args.lr, steps=self.args.steps)
        return student.eval()

    def _scores(self, model: Transformer) -> dict[str, float]:
        loss_BN = text_lab.losses(model, self.test, self.args.batch)
        given, original = text_lab.perplexity(loss_BN), text_lab.perplexity(self.loss_BN)
        return {"perplexity": round(given, 4), "increase_percent": round(100 * (given / original - 1), 3)}

    def _sizes(self, model: Transformer) -> dict[str, int]:
        embed = model.structure.embed
        assert isinstance(embed, TokenEmbedSpec)
        return {
            "parameters": model.num_parameters(),
            "block_parameters": vit_lab.block_parameters(model),
            "table_parameters": sum(parameter.numel() for parameter in model.embed.parameters()),
        }

    def _texts(self) -> dict[str, int]:
        return {
            "length": self.args.length,
            "train_tokens": self.train.numel(),
            "test_tokens": self.test.numel(),
        }

    @property
    def conditions(self) -> dict[str, Any]:
        """What all rows share."""
        return {
            "model": self.args.model.rsplit("/", 1)[-1],
            "command": record.command(self.module),
            **record.surroundings(),
            "seed": self.args.seed,
            "heal": {"steps": self.args.steps, "batch": self.args.batch, "lr": self.args.lr},
            **self._texts(),
            "original": {**self._sizes(self.teacher), **self._scores(self.teacher)},
        }


def run(args: argparse.Namespace) -> None:
    """Measure every row that no other process has taken."""
    measure_rows(TextBench(args, "rewrites-text"), args, rows)


def main() -> None:
    """Run the verb."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_verbs(parser.add_subparsers(required=True), run)
    args = parser.parse_args()
    args.run(args)


def add_verbs(verbs: Any, measure: Callable[[argparse.Namespace], None]) -> None:
    """`run`, which is `measure`, and `collect`."""
    add_run(verbs.add_parser("run"), measure)
    add_collect(verbs)


def add_run(running: argparse.ArgumentParser, measure: Callable[[argparse.Namespace], None]) -> None:
    """The arguments of a table on texts."""
    running.set_defaults(run=measure)
    running.add_argument("model")
    running.add_argument("folder", type=Path)
    running.add_argument("--evaluate", type=Path, help="text to measure on")
    running.add_argument("--text", type=Path, help="text to fit and heal on")
    running.add_argument("--length", type=int, default=256, help="tokens of a row")
    running.add_argument("--limit", type=int, default=128, help="rows to measure on")
    running.add_argument("--calibration", type=int, default=128, help="rows to fit on")
    running.add_argument("--steps", type=int, default=300)
    running.add_argument("--batch", type=int, default=16)
    running.add_argument("--lr", type=float, default=1e-3)
    running.add_argument("--only", nargs="+", help="names of rows")
    running.add_argument("--known", nargs="+", type=Path, default=[], help="results whose rows are taken over")
    running.add_argument("--seed", type=int, default=0)


if __name__ == "__main__":
    main()
