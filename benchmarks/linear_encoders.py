"""Encoders with attention of linear cost: drift of vit-cifar10 and MiniLM, and the speed of their blocks by length.

Usage, from the root of the repository:
    python -m benchmarks.linear_encoders drift OUT.json --data DATA                    # vit-cifar10, one GPU
    python -m benchmarks.linear_encoders drift OUT.json --data DATA --steps 40 --batch 32 --limit 5000  # a CPU, an hour
    python -m benchmarks.linear_encoders sentences OUT.json --pairs SICK_trial.txt     # MiniLM, untrained, CPU
    python -m benchmarks.linear_encoders speed OUT.json                                # CPU, a quiet machine

drift: the layers that each form suits best (auto:K), attention transfer, then distillation on CIFAR-10's training
images; top-1 on held-out ones before and after. Rows that OUT.json has are not done again. sentences: cosine of
MiniLM's embeddings to the original's before any training. speed: one block of the ViT's size and one of MiniLM's in
ONNX Runtime at 65 to 4,096 random tokens, each in a process of its own, in turns; the lengths are the question, so
positions do not matter.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

LENGTHS = (65, 256, 1024, 4096)
#: Form -> its rewrite, for images and for texts.
FORMS: dict[str, dict[str, Any]] = {
    "elu": {"use": "linear-attention", "feature": "elu"},
    "t2r": {"use": "linear-attention", "feature": "t2r", "size": 32},
    "hedgehog": {"use": "linear-attention", "feature": "hedgehog"},
    "performer": {"use": "linear-attention", "feature": "performer", "size": 128},
    "linformer": {"use": "linformer", "pools": 16},
    "sumformer": {"use": "sumformer", "summary_size": 64, "intermediate_size": 128},
}
COUNTS = (2, 6)
BLOCKS = {"vit-cifar10": (192, 3, 64), "minilm": (384, 12, 32)}


def drift(args: argparse.Namespace) -> None:
    """vit-cifar10: each form in its best K layers, healed."""
    import torch
    from accelerate import Accelerator

    from benchmarks import vit_lab
    from compress.heal import HealOptions, ImageFeed, heal

    torch.manual_seed(0)
    accelerator = Accelerator(mixed_precision="bf16" if torch.cuda.is_available() else "no")
    device = str(accelerator.device)
    teacher = vit_lab.original("vit-cifar10").to(device)
    train, held_out = vit_lab.training_parts(args.data)
    if args.limit:
        train, held_out = (part.subset(np.arange(min(len(part), args.limit))) for part in (train, held_out))
    few = train.subset(np.arange(0, len(train), max(1, len(train) // 500)))
    known = vit_lab.prepared(held_out, teacher, device)
    target_SC = vit_lab.answers(teacher, known.images)
    images_N = vit_lab.prepared(few, teacher, device).images
    rows = json.loads(args.result.read_text(encoding="utf-8"))["rows"] if args.result.is_file() else []
    for form, table in FORMS.items():
        for count in args.counts:
            if any((row["form"], row["layers"]) == (form, count) for row in rows):
                continue
            notes: list[str] = []
            calibration = vit_lab.calibration_of(teacher, images_N, notes)
            student = vit_lab.rewritten(teacher, [{**table, "layers": f"auto:{count}"}], calibration)
            options = HealOptions(
                attention_steps=args.steps // 4,
                attention_lr=1e-2 if form in ("t2r", "hedgehog") else 1e-3,
                steps=args.steps,
                batch_size=args.batch,
                lr=3e-4,
                mixup=True,
                eval_every=max(1, args.steps // 4),
                patience=100,
            )
            feeds = [
                ImageFeed(part, teacher.structure.preprocessing, 0, accelerator.device) for part in (train, held_out)
            ]
            with tempfile.TemporaryDirectory() as work:
                healed = heal(student, teacher, feeds[0], feeds[1], options, accelerator, Path(work), _quiet)
            rows.append(
                {
                    "form": form,
                    "layers": count,
                    "rewrite": table,
                    "before": vit_lab.scores(vit_lab.answers(student, known.images), target_SC, known.labels),
                    "after": vit_lab.scores(
                        vit_lab.answers(healed.model.to(device), known.images), target_SC, known.labels
                    ),
                    "notes": notes,
                }
            )
            print(form, count, rows[-1]["before"], rows[-1]["after"], flush=True)
            result = {
                "command": vit_lab.command("benchmarks.linear_encoders"),
                **vit_lab.surroundings(),
                "held_out_images": len(known.labels),
                "steps": args.steps,
                "batch": args.batch,
                "original": vit_lab.scores(target_SC, target_SC, known.labels),
                "rows": rows,
            }
            vit_lab.write_json(args.result, result)


def _quiet(done: float, total: float, note: str = "", **numbers: float) -> None:
    pass


def sentences(args: argparse.Namespace) -> None:
    """MiniLM: mean cosine to the original's embeddings, each form in its best K layers, untrained."""
    import torch
    from tokenizers import Tokenizer

    from benchmarks import text_lab
    from compress.families import read_checkpoint
    from compress.rewrites import Calibration, parse_options, run_rewrite
    from compress.zoo import locate

    folder = locate("zoo:minilm")
    original = read_checkpoint(folder, {}).eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    lines = [line.split("\t")[1] for line in args.pairs.read_text(encoding="utf-8").splitlines()[1:]][
        : args.limit or 500
    ]
    tokenizer.enable_padding(length=32)
    tokenizer.enable_truncation(32)
    encoded = tokenizer.encode_batch(lines)
    inputs = {
        "input_ids": torch.tensor([one.ids for one in encoded]),
        "attention_mask": torch.tensor([one.attention_mask for one in encoded]),
    }
    cut = {name: tensor[: len(lines) // 2] for name, tensor in inputs.items()}
    rest = {name: tensor[len(lines) // 2 :] for name, tensor in inputs.items()}
    rows = []
    for form, table in FORMS.items():
        extra = {"length": 32} if form == "linformer" else {}
        for count in args.counts:
            notes: list[str] = []
            calibration = Calibration(original, lambda: iter([cut]), notes.append)
            model = run_rewrite(*parse_options({**table, **extra, "layers": f"auto:{count}"}), original, calibration)
            with torch.no_grad():
                cosine = torch.nn.functional.cosine_similarity(model(rest), original(rest), dim=-1).mean()
            rows.append({"form": form, "layers": count, "rewrite": {**table, **extra}, "cosine": float(cosine)})
            print(rows[-1], flush=True)
    result = {"command": text_lab.command("benchmarks.linear_encoders"), **text_lab.surroundings(), "rows": rows}
    text_lab.write_json(args.result, result)


def export_block(name: str, form: str, length: int, path: Path) -> None:
    """One bidirectional mixer of the model's size, random weights, as ONNX: x (1,length,D) -> y."""
    import torch

    from compress.model.mixer import Context, MixerSpec
    from export.onnx_model import export_onnx

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

    export_onnx(Alone(), {"x": torch.randn(1, length, width)}, ["y"], {}, path)


def child(path: Path, threads: int, seconds: float) -> float:
    """Median milliseconds of a call."""
    from runtime import ort

    model = ort.load(path, threads=threads)
    shape = [int(size) for size in model.inputs[0].shape]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    took, begun = [], time.perf_counter()
    while time.perf_counter() - begun < seconds or len(took) < 5:
        start = time.perf_counter()
        model.run({"x": x})
        took.append(time.perf_counter() - start)
    return 1000 * statistics.median(took[len(took) // 5 :])


def speed(args: argparse.Namespace) -> None:
    """Every form at every length, in turns."""
    import onnxruntime

    forms = ["softmax", *FORMS]
    took: dict[tuple[str, int, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        places = [(name, length) for name in BLOCKS for length in args.lengths]
        files = {
            (*place, form): Path(folder, *map(str, place), form, "model.onnx") for place in places for form in forms
        }
        for (name, length, form), path in files.items():
            export_block(name, form, length, path)
        for number in range(args.rounds):
            for place in places:
                for form in forms if number % 2 == 0 else forms[::-1]:
                    command = [sys.executable, "-m", "benchmarks.linear_encoders", "child", str(files[*place, form])]
                    command += ["--threads", str(args.threads), "--seconds", str(args.seconds)]
                    done = subprocess.run(command, check=True, capture_output=True, text=True)
                    took.setdefault((*place, form), []).append(float(done.stdout))
                print(place, {form: round(took[*place, form][-1], 3) for form in forms}, flush=True)
    rows = [
        {
            "block": name,
            "tokens": length,
            "milliseconds": {form: round(statistics.median(took[name, length, form]), 4) for form in forms},
            "speedup": {
                form: round(
                    statistics.median(
                        a / b for a, b in zip(took[name, length, "softmax"], took[name, length, form], strict=True)
                    ),
                    3,
                )
                for form in forms[1:]
            },
        }
        for name, length in places
    ]
    result = {
        "command": "python -m benchmarks.linear_encoders " + " ".join(sys.argv[1:]),
        "onnxruntime": onnxruntime.__version__,
        "threads": args.threads,
        "rows": rows,
    }
    args.result.parent.mkdir(parents=True, exist_ok=True)
    args.result.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Run the verb."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    for name, run in (("drift", drift), ("sentences", sentences), ("speed", speed)):
        verb = verbs.add_parser(name)
        verb.set_defaults(run=run)
        verb.add_argument("result", type=Path)
        verb.add_argument("--data", help="CIFAR-10's images")
        verb.add_argument("--pairs", type=Path, help="SICK's sentences")
        verb.add_argument("--limit", type=int)
        verb.add_argument("--steps", type=int, default=2000)
        verb.add_argument("--counts", type=int, nargs="+", default=list(COUNTS), help="layers that are rewritten")
        verb.add_argument("--batch", type=int, default=256)
        verb.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS))
        verb.add_argument("--rounds", type=int, default=3)
        verb.add_argument("--threads", type=int, default=2)
        verb.add_argument("--seconds", type=float, default=1.0)
    one = verbs.add_parser("child")
    one.set_defaults(run=lambda args: print(child(args.file, args.threads, args.seconds)))
    one.add_argument("file", type=Path)
    one.add_argument("--threads", type=int, default=2)
    one.add_argument("--seconds", type=float, default=1.0)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
