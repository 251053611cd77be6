"""Find and heal the `full` recipe for vit-cifar10: a third of the size, distilled on all training images.

Usage, from the root of the repository:
    python -m benchmarks full-recipe-vit heal DATA OUT --candidate twelve-320 --seconds 480      # one GPU
    python -m benchmarks full-recipe-vit heal DATA OUT --candidate seven-blocks      # for 20,000 steps
    python -m benchmarks full-recipe-vit heal DATA OUT --candidate six-blocks --steps 2 --batch 8 --limit 200  # smoke
    python -m benchmarks full-recipe-vit choose OUT...      # the one that ships, by held-out training images
    python -m benchmarks full-recipe-vit test DATA OUT      # on the test images, once, for the chosen one

DATA holds `train/<class>/*.jpg` and `test/<class>/*.jpg` (a folder or a zip), or is an npz. OUT gets structure.json,
model.safetensors (fp16) and heal.json. Candidates are compared by 1,000 training images that neither the original nor
the student saw.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from benchmarks.lab import images as vit_lab
from benchmarks.lab import record
from benchmarks.lab.training import Log
from benchmarks.lab.two_teachers import TWO_TEACHERS, TaughtFeed, second_teacher
from compress.heal import HealOptions, ImageFeed, heal
from compress.heal.objective import CLASSIFICATION, Objective
from compress.model import Transformer, load, save
from compress.model.forms.loops import at_loops
from compress.rewrites import Calibration

MODEL = "vit-cifar10"
CALIBRATION = 2000
Recipes = Mapping[str, list[dict[str, Any]]]
EXACT: list[dict[str, Any]] = [{"use": "fold-norm"}, {"use": "drop-key-bias"}, {"use": "fold-value-bias"}]
NARROW: list[dict[str, Any]] = [
    {"use": "low-rank-heads", "rank": 16, "value_rank": 16},
    {"use": "trim-last-block"},
]
#: Blocks to drop: taken out one at a time, each time the one whose loss moves the answers least (mean KL).
CANDIDATES: dict[str, list[dict[str, Any]]] = {
    "twelve-320": [*EXACT, *NARROW, {"use": "prune-neurons", "keep": 320}],
    "ten-blocks-576": [
        *EXACT,
        {"use": "drop-blocks", "layers": [6, 10]},
        *NARROW,
        {"use": "prune-neurons", "keep": 576},
    ],
    "twelve-320-pooled": [
        *EXACT,
        *NARROW,
        {"use": "prune-neurons", "keep": 320},
        {"use": "pool-tokens", "after": 5},
    ],
    "twelve-early": [
        *EXACT,
        *NARROW,
        {"use": "prune-neurons", "keep": 256, "layers": [0, 1, 2, 3]},
        {"use": "prune-neurons", "keep": 336, "layers": [4, 5, 6, 7, 8, 9, 10, 11]},
        {"use": "pool-tokens", "after": 3},
    ],
    "ten-early": [
        *EXACT,
        {"use": "drop-blocks", "layers": [6, 10]},
        *NARROW,
        {"use": "prune-neurons", "keep": 400},
        {"use": "pool-tokens", "after": 3},
    ],
    "nine-blocks": [*EXACT, {"use": "drop-blocks", "layers": [3, 6, 10]}, *NARROW],
    "nine-relu": [
        *EXACT,
        {"use": "drop-blocks", "layers": [3, 6, 10]},
        *NARROW,
        {"use": "prune-neurons", "keep": 640},
        {"use": "swap-activation", "to": "relu"},
    ],
    "eight-blocks": [*EXACT, {"use": "drop-blocks", "layers": [3, 6, 8, 10]}, *NARROW],
    "seven-blocks": [
        *EXACT,
        {"use": "drop-blocks", "layers": [3, 5, 6, 8, 10]},
        {"use": "affine-mlp", "layers": [0]},
        *NARROW,
    ],
    "six-blocks": [
        *EXACT,
        {"use": "drop-blocks", "layers": [2, 3, 5, 6, 8, 10]},
        {"use": "affine-mlp", "layers": [0]},
        *NARROW,
    ],
}


def heal_candidate(args: argparse.Namespace, candidates: Recipes, module: str) -> None:
    """Rewrite, heal, round to fp16, score on held-out images, save."""
    torch.manual_seed(args.seed)
    if torch.cuda.is_available():
        torch.backends.cuda.enable_cudnn_sdp(False)  # its bf16 backward pass has open fault reports on Hopper
        torch.backends.cudnn.allow_tf32 = False
    accelerator = Accelerator(mixed_precision="bf16" if torch.cuda.is_available() else "no")
    device = str(accelerator.device)
    teacher = vit_lab.original(MODEL).to(device)
    train, held_out = vit_lab.training_parts(args.data)
    if args.limit:
        train = train.subset(np.arange(0, len(train), max(1, len(train) // args.limit)))
    notes: list[str] = []
    few = train.subset(np.arange(0, len(train), max(1, len(train) // CALIBRATION)))
    calibration = vit_lab.calibration_of(teacher, vit_lab.prepared(few, teacher, device).images, notes)
    recipe = candidates[args.candidate]
    student = begun(args.begin, recipe, calibration).to(device)
    print(*notes, sep="\n", flush=True)
    options = HealOptions(
        steps=args.steps,
        batch_size=args.batch,
        lr=args.lr,
        loops=tuple(args.loops),
        hidden=args.hidden,
        task=args.task,
        temperature=args.temperature,
        weight_decay=args.weight_decay,
        average=args.average,
        mixup=not args.second_teacher,  # its own views are mixed already
        eval_every=max(1, args.steps // 20),
        patience=100,
    )
    second = second_teacher(train, held_out, teacher, args.second_teacher) if args.second_teacher else None

    def feed(dataset: Any) -> ImageFeed:
        about = (dataset, teacher.structure.preprocessing, args.seed, accelerator.device)
        return TaughtFeed(*about, second=second) if second else ImageFeed(*about)

    log = Log(every=500)
    feeds, objective = (feed(train), feed(held_out)), TWO_TEACHERS if second else CLASSIFICATION
    if args.seconds:
        started = time.monotonic()
        rate = _steps_per_second(student, teacher, feeds, options, accelerator, objective)
        left = args.seconds - (time.monotonic() - started)
        steps = max(1, int(left * rate))
        options = options.replace(steps=steps, eval_every=max(1, steps // 20))
        print(f"{rate:.1f} steps a second: {steps} steps in {left:.0f} s", flush=True)
    with tempfile.TemporaryDirectory() as work:
        healed = heal(student, teacher, *feeds, options, accelerator, Path(work), log, objective)
    model = healed.model.half().float()  # what is scored is what is saved
    write_half(model, args.out)
    known = vit_lab.prepared(held_out, teacher, device)
    target_SC = vit_lab.answers(teacher, known.images)
    result = {
        "candidate": args.candidate,
        "command": record.command(module),
        **record.surroundings(),
        "seed": args.seed,
        "rewrite": recipe,
        "healed_before": json.loads((args.begin / "heal.json").read_text())
        if args.begin and (args.begin / "heal.json").is_file()
        else None,
        "heal": options.model_dump(mode="json"),
        "second_teacher_seconds": args.second_teacher,
        "train_images": len(train),
        "calibration_images": len(few),
        "notes": notes,
        "parameters": model.num_parameters(),
        "block_parameters": vit_lab.block_parameters(model),
        "macs": vit_lab.macs(model),
        "original_parameters": teacher.num_parameters(),
        "original_block_parameters": vit_lab.block_parameters(teacher),
        "original_macs": vit_lab.macs(teacher),
        "held_out_images": len(held_out),
        "held_out_before": vit_lab.scores(vit_lab.answers(student, known.images), target_SC, known.labels),
        "held_out": vit_lab.scores(vit_lab.answers(model.to(device), known.images), target_SC, known.labels),
        "held_out_at_loops": {
            loops: vit_lab.scores(vit_lab.answers(at_loops(model, loops), known.images), target_SC, known.labels)
            for loops in args.loops
        },
        "held_out_original": vit_lab.scores(target_SC, target_SC, known.labels),
        "steps_run": healed.steps,
        "heal_seconds": log.curve[-1][1],
        "curve_columns": ["step", "seconds", "loss", "best drift so far"],
        "curve": log.curve,
    }
    record.save(args.out / "heal.json", result)
    print(
        {key: result[key] for key in ("candidate", "parameters", "macs", "held_out", "held_out_original")}, flush=True
    )


def begun(healed: Path | None, recipe: list[dict[str, Any]], calibration: Calibration) -> Transformer:
    """The original after the recipe; or a model that was healed after it, or after all of it but pooling, pooled."""
    if healed is None:
        return vit_lab.rewritten(calibration.original, recipe, calibration)
    model = load(healed).to(next(calibration.original.parameters()).device)
    pooled = any(block.reducer is not None and block.reducer.leading is None for block in model.structure.blocks)
    pooling = [] if pooled else [table for table in recipe if table["use"] == "pool-tokens"]
    return vit_lab.rewritten(model, pooling, calibration)


def healing_of(folder: Path) -> dict[str, Any]:
    """How a model was healed; the name of one of `benchmarks/models`, whose healing is among the results."""
    known = folder / "heal.json"
    healing: dict[str, Any] = json.loads(known.read_text()) if known.is_file() else {"model": folder.name}
    return healing


def _steps_per_second(
    student: Transformer,
    teacher: Transformer,
    feeds: tuple[ImageFeed, ImageFeed],
    options: HealOptions,
    accelerator: Accelerator,
    objective: Objective,
) -> float:
    """How fast healing is here, once it is compiled and warm."""
    trial, log = options.replace(steps=400, eval_every=400), Log(every=100)
    with tempfile.TemporaryDirectory() as work:
        heal(student, teacher, *feeds, trial, accelerator, Path(work), log, objective)
    (first, begin, *_), (last, end, *_) = log.curve[0], log.curve[-1]
    return (last - first) / max(end - begin, 1e-3)


def write_half(model: Transformer, folder: Path) -> None:
    """Save with fp16 weights; loading gives fp32 again."""
    save(model.copy().half(), folder)


def choose(args: argparse.Namespace) -> None:
    """Print the candidates, best held-out top-1 first (ties: lower KL)."""
    results = [json.loads((folder / "heal.json").read_text()) for folder in args.out]
    for result in sorted(results, key=lambda one: (-one["held_out"]["top1"], one["held_out"]["kl"])):
        print(result["candidate"], result["parameters"], result["macs"], result["held_out"])


def test(args: argparse.Namespace, module: str) -> None:
    """Score a healed model on the test images beside the original, in fp32; writes test.json."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.allow_tf32 = False
    teacher = vit_lab.original(MODEL).to(device)
    known = vit_lab.prepared(vit_lab.test_images(args.data), teacher, device)
    model = load(args.out).to(device)
    logits_SC = vit_lab.answers(model, known.images)
    target_SC = vit_lab.answers(teacher, known.images)
    options = json.loads((args.out / "heal.json").read_text())["heal"]
    others = {loops: vit_lab.answers(at_loops(model, loops), known.images) for loops in options.get("loops", ())}

    def right(answers_SC: Tensor) -> Tensor:
        return answers_SC.argmax(-1) == known.labels

    result = {
        "command": record.command(module),
        **record.surroundings(),
        "test_images": len(known.labels),
        "test": vit_lab.scores(logits_SC, target_SC, known.labels),
        "test_original": vit_lab.scores(target_SC, target_SC, known.labels),
        "points": vit_lab.drop(right(logits_SC), right(target_SC)),
        "points_at_loops": {
            loops: vit_lab.drop(right(other_SC), right(target_SC)) for loops, other_SC in others.items()
        },
    }
    record.save(args.out / "test.json", result)
    print(result, flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_verbs(parser.add_subparsers(required=True), CANDIDATES, "full-recipe-vit")
    return parser.parse_args()


def add_verbs(verbs: Any, candidates: Recipes, module: str) -> None:
    """`heal`, `choose` and `test`, for these candidates; `module` is named in the results."""
    healing = verbs.add_parser("heal")
    healing.set_defaults(run=partial(heal_candidate, candidates=candidates, module=module))
    healing.add_argument("data")
    healing.add_argument("out", type=Path)
    healing.add_argument("--candidate", choices=candidates, required=True)
    healing.add_argument("--steps", type=int, default=20_000)
    healing.add_argument("--seconds", type=float, help="heal for about so long instead of --steps")
    healing.add_argument(
        "--begin", type=Path, help="OUT of an earlier healing of the candidate, or of what it was before pooling"
    )
    healing.add_argument("--batch", type=int, default=512)
    healing.add_argument("--lr", type=float, default=5e-4)
    healing.add_argument("--hidden", type=float, default=0.5)
    healing.add_argument("--task", type=float, default=0.3)
    healing.add_argument("--temperature", type=float, default=2.0)
    healing.add_argument("--weight-decay", type=float, default=0.0)
    healing.add_argument("--average", type=float, default=0.0)
    healing.add_argument(
        "--second-teacher", type=float, metavar="SECONDS", help="heal towards a ResNet-9 that learned so long, too"
    )
    healing.add_argument("--loops", type=int, nargs="+", default=[], help="other numbers of loops to heal for")
    healing.add_argument("--seed", type=int, default=0)
    healing.add_argument("--limit", type=int, help="about how many training images, for smoke tests")
    choosing = verbs.add_parser("choose")
    choosing.set_defaults(run=choose)
    choosing.add_argument("out", type=Path, nargs="+")
    testing = verbs.add_parser("test")
    testing.set_defaults(run=partial(test, module=module))
    testing.add_argument("data")
    testing.add_argument("out", type=Path)


def main() -> None:
    """Run the verb."""
    args = arguments()
    args.run(args)


if __name__ == "__main__":
    main()
