"""Encoders with attention of linear cost: drift of vit-cifar10 and MiniLM, and the speed of their blocks by length.

Usage, from the root of the repository:
    python -m benchmarks linear-encoders images vit-cifar10 DATA FOLDER --steps 300     # several processes share rows
    python -m benchmarks linear-encoders texts zoo:minilm FOLDER --steps 300 --batch 64 --calibration 6000
    python -m benchmarks linear-encoders collect FOLDER RESULT.json
    python -m benchmarks linear-encoders files FOLDER                 # what `speed` times
    python -m benchmarks linear-encoders speed FOLDER RESULT.json     # CPU, a quiet machine

images and texts: each form in the two layers that it suits best, and in six; attention transfer (a quarter of the
steps), then distillation. The arguments are those of `rewrites-vit` and `loops-text`, as are the
scores: top-1, and cosine to the original's embeddings. speed: the mixer of one layer of the ViT's size and of MiniLM's
in ONNX Runtime at 65 to 4,096 random tokens; the lengths are the question, so positions do not matter. Softmax
attention is one fused node there, as in what ships for a CPU.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.experiments import rewrites_text
from benchmarks.experiments.loops_text import EncoderBench
from benchmarks.experiments.rewrites_vit import Bench, Row, add_verbs, measure_rows
from benchmarks.lab import record
from benchmarks.lab import texts as text_lab
from compress.heal.attention_transfer import AttentionTransfer
from compress.model import Structure, Transformer
from compress.model.embeds.token import TokenEmbedSpec
from compress.model.mixer import MixerSpec
from compress.model.sequence import Context
from export.cpu_graph import optimize_for_cpu
from export.onnx_model import export_onnx
from runtime.measuring.compare import time_alternating

MODULE = "linear-encoders"
LENGTHS = (65, 256, 1024, 4096)
#: Form -> its rewrite.
FORMS: dict[str, dict[str, Any]] = {
    "elu": {"use": "linear-attention", "feature": "elu"},
    "t2r": {"use": "linear-attention", "feature": "t2r", "size": 32},
    "hedgehog": {"use": "linear-attention", "feature": "hedgehog"},
    "performer": {"use": "linear-attention", "feature": "performer", "size": 128},
    "linformer": {"use": "linformer", "pools": 16},
    "sumformer": {"use": "sumformer", "summary_size": 64, "intermediate_size": 128},
}
#: Linformer of a text model: the longest of its sentences has fewer tokens than this.
SENTENCES = {"length": 128, "pools": 32}
COUNTS = (2, 6)
#: Model -> hidden size, heads, size of a head.
BLOCKS = {"vit-cifar10": (192, 3, 64), "minilm": (384, 12, 32)}


def rows(structure: Structure) -> Iterator[Row]:
    """Each form in the K layers that it suits best."""
    texts = isinstance(structure.embed, TokenEmbedSpec)
    for count, (form, table) in itertools.product(COUNTS, FORMS.items()):
        options = table | SENTENCES if texts and form == "linformer" else table
        yield Row(f"{form}-layers-{count}", [{**options, "layers": f"auto:{count}"}])


def transfer_rate(tables: list[dict[str, Any]]) -> float:
    """Learning rate of attention transfer: feature maps take a higher one than pools and MLPs."""
    return 1e-2 if "feature" in tables[0] else 1e-3


class Images(Bench):
    """vit-cifar10, with attention transfer before distillation."""

    def __init__(self, args: argparse.Namespace, module: str) -> None:
        super().__init__(args, module)
        self.options = self.options.replace(attention_steps=args.steps // 4, mixup=True)

    def measure(self, row: Row) -> dict[str, Any]:
        self.options = self.options.replace(attention_lr=transfer_rate(row.tables))
        return {**super().measure(row), "attention_lr": self.options.attention_lr}


class Texts(EncoderBench):
    """MiniLM, with attention transfer before distillation."""

    def measure(self, row: Row) -> dict[str, Any]:
        self.transfer_lr = transfer_rate(row.tables)
        return {**super().measure(row), "attention_lr": self.transfer_lr}

    def _healed(self, student: Transformer) -> Transformer:
        transfer = AttentionTransfer.of(student.requires_grad_(False), self.teacher)
        for parameter in transfer.parameters:
            parameter.requires_grad_(True)

        def loss(inputs: Any) -> Tensor:
            return transfer.loss(inputs, 0.0)

        if transfer.parameters:
            batches: Any = itertools.cycle(self.fitted)
            text_lab.train(transfer.parameters, loss, batches, self.transfer_lr, steps=self.args.steps // 4)
        return super()._healed(student)


def run_texts(args: argparse.Namespace) -> None:
    """Measure every row that no other process has taken."""
    measure_rows(Texts(args, MODULE), args, rows)


def export_mixer(name: str, form: str, length: int, path: Path) -> None:
    """The bidirectional mixer of a layer of the model's size, random weights, as ONNX: x (1,length,D) -> y."""
    width, heads, size = BLOCKS[name]
    counts = {"num_heads": heads, "num_kv_heads": heads, "head_dim": size, "scale": size**-0.5}
    projected = {
        "scores": {"kind": "projected", **counts},
        "values": {"kind": "projected", "num_kv_heads": heads, "head_dim": size},
    }
    linear = {"kind": "linear-attention", **projected}
    forms: dict[str, dict[str, Any]] = {
        "softmax": {"kind": "packed-attention", **counts, "value_dim": size},
        "elu": {**linear, "feature": {"kind": "elu"}},
        "t2r": {**linear, "feature": {"kind": "t2r", "size": 32}},
        "hedgehog": {**linear, "feature": {"kind": "hedgehog"}},
        "performer": {**linear, "feature": {"kind": "performer", "size": 128}},
        "linformer": {"kind": "linformer", **projected, "length": length, "pools": 64},
        "sumformer": {"kind": "sumformer", "summary_size": 64, "intermediate_size": 128},
    }
    mixer = MixerSpec.parse(forms[form]).build(width, 1).eval()

    class Alone(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mixer = mixer

        def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
            return mixer(inputs["x"], 0, Context())

    plain = path.with_name("plain.onnx")
    export_onnx(Alone(), {"x": torch.randn(1, length, width)}, ["y"], {}, plain)
    optimize_for_cpu(plain, path)
    plain.unlink()


def files_of(folder: Path, lengths: list[int]) -> dict[tuple[str, int], dict[str, Path]]:
    """The file of every form, by model and length."""
    return {
        (name, length): {form: folder / f"{name}-{length}" / form / "model.onnx" for form in ["softmax", *FORMS]}
        for name, length in itertools.product(BLOCKS, lengths)
    }


def write_files(args: argparse.Namespace) -> None:
    """Export every form at every length."""
    for (name, length), files in files_of(args.folder, args.lengths).items():
        for form, path in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            export_mixer(name, form, length, path)
        print(name, length, flush=True)


def speed(args: argparse.Namespace) -> None:
    """Time every form at every length beside softmax attention."""
    found = []
    for (name, length), files in files_of(args.folder, args.lengths).items():
        timed = time_alternating(files, rounds=args.rounds, seconds=args.seconds)
        found.append({"block": name, "tokens": length, **timed})
        print(name, length, {form: round(ms, 3) for form, ms in timed["median_ms"].items()}, flush=True)
    document = {"command": record.command(MODULE), **record.surroundings(), "onnxruntime": version("onnxruntime")}
    record.save(args.result, {**document, "rows": found})


def main() -> None:
    """Run the verb."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    add_verbs(verbs, {"images": rows}, MODULE, Images)
    rewrites_text.add_run(verbs.add_parser("texts"), run_texts)
    writing, timing = verbs.add_parser("files"), verbs.add_parser("speed")
    writing.set_defaults(run=write_files)
    timing.set_defaults(run=speed)
    for verb in (writing, timing):
        verb.add_argument("folder", type=Path)
        verb.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS))
    timing.add_argument("result", type=Path)
    timing.add_argument("--rounds", type=int, default=3)
    timing.add_argument("--seconds", type=float, default=0.3)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
