"""Looped weight-tying of text models, a small table: stories260k (perplexity) and minilm (cosine to the original).

Usage, from the root of the repository:
    python -m benchmarks loops-text run zoo:stories260k FOLDER      # several processes share the rows
    python -m benchmarks loops-text run zoo:minilm FOLDER --steps 0
    python -m benchmarks loops-text collect FOLDER RESULT.json

Rows: what a loop has of its own, groupings and initializations, with dropped blocks and affine patches beside them. For
decoders see `rewrites-text`. A sentence encoder is healed on 1 - cosine to the original's embedding, on the
healing part of the zoo's sentence pairs, and scored on the evaluation part.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.experiments.rewrites_text import TextBench, add_verbs
from benchmarks.experiments.rewrites_vit import Row, Tables, measure_rows
from benchmarks.lab import texts as text_lab
from compress import zoo
from compress.data import load_texts
from compress.model import Structure, Transformer
from compress.model.heads.embedding import EmbeddingSpec
from compress.rewrites import Calibration
from compress.tasks import read_checkpoint

MODULE = "loops-text"
PAIRS = "zoo:sts"


def rows(structure: Structure) -> Iterator[Row]:
    """The table's rows for a model's number of layers and sizes."""
    count, width = len(structure.blocks), structure.hidden_size
    foldable = all(spec.residual == "pre" for spec in structure.blocks)
    before: Tables = [*([{"use": "fold-norm"}] if foldable else []), {"use": "align-layers"}]
    ranks = {f"deltas-{rank}": {"delta_rank": rank} for rank in (width // 16, width // 8, width // 4)}
    own: dict[str, dict[str, Any]] = {"none": {}, **ranks, f"signals-{width // 8}": {"signal_rank": width // 8}}
    if foldable:
        own |= {"timestep": {"timestep": True}}

    def tied(name: str, **options: Any) -> Row:
        return Row(name, [*before, {"use": "tie-layers", **options}])

    yield Row("unchanged", [])
    for name, options in own.items():
        yield tied(f"middle-1.{name}", **options)
    for init in ("first", "stepwise", "mean"):
        yield tied(f"middle-1.deltas-{width // 8}.{init}", init=init, delta_rank=width // 8)
    for grouping in ("cycle", "sequence"):
        yield tied(f"{grouping}-2.deltas-{width // 8}", grouping=grouping, blocks=2, delta_rank=width // 8)
    yield tied(f"cycle-1.deltas-{width // 4}", grouping="cycle", delta_rank=width // 4)
    for dropped in (count // 3, count // 2):
        yield Row(f"drop-blocks-{dropped}", [{"use": "drop-blocks", "layers": f"auto:{dropped}"}])
        yield Row(f"affine-patch-{dropped}", [{"use": "affine-patch", "layers": f"auto:{dropped}"}])


class EncoderBench(TextBench):
    """A sentence encoder, its texts in padded batches, and the row at hand."""

    headline: ClassVar[str] = "cosine"

    def __init__(self, args: argparse.Namespace, module: str) -> None:
        self.args, self.module = args, module
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        folder = zoo.locate(args.model)
        self.teacher = read_checkpoint(folder, {}).to(self.device).requires_grad_(False)
        self.folder = folder
        self.fitted = self._batches("healing", args.calibration)
        self.asked = self._batches("evaluation", args.limit)
        self.targets = [self.teacher(inputs) for inputs in self.asked]

    def _batches(self, part: Any, limit: int) -> list[dict[str, Tensor]]:
        from transformers import AutoTokenizer

        texts = [text for row in load_texts(PAIRS, part=part).rows for text in row.texts]
        texts = texts[:: max(1, len(texts) // limit)][:limit]
        tokenizer = AutoTokenizer.from_pretrained(self.folder)
        parts = (texts[start : start + self.args.batch] for start in range(0, len(texts), self.args.batch))
        encoded = (tokenizer(part, padding=True, truncation=True, return_tensors="pt") for part in parts)
        return [{name: tensor.to(self.device) for name, tensor in one.items()} for one in encoded]

    def _calibration(self, notes: list[str]) -> Calibration:
        return Calibration(self.teacher, lambda: iter(self.fitted), notes.append)

    def _healed(self, student: Transformer) -> Transformer:
        student = student.requires_grad_(True).train()

        def loss(inputs: Any) -> Tensor:
            with torch.no_grad():
                target_BD = self.teacher(inputs)
            return (1 - F.cosine_similarity(student(inputs), target_BD, dim=-1)).mean()

        batches = itertools.cycle(self.fitted)
        text_lab.train(list(student.parameters()), loss, batches, self.args.lr, steps=self.args.steps)  # type: ignore[arg-type]
        return student.eval()

    def _texts(self) -> dict[str, int]:
        return {"fitted_texts": self.args.calibration, "test_texts": self.args.limit}

    @torch.no_grad()
    def _scores(self, model: Transformer) -> dict[str, float]:
        cosines = [
            F.cosine_similarity(model(inputs), target_BD, dim=-1)
            for inputs, target_BD in zip(self.asked, self.targets, strict=True)
        ]
        return {"cosine": round(float(torch.cat(cosines).mean()), 5)}


def run(args: argparse.Namespace) -> None:
    """Measure every row that no other process has taken."""
    encoder = isinstance(read_checkpoint(zoo.locate(args.model), {}).structure.head, EmbeddingSpec)
    measure_rows((EncoderBench if encoder else TextBench)(args, MODULE), args, rows)


def main() -> None:
    """Run the verb."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_verbs(parser.add_subparsers(required=True), run)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
