"""What a short healing of `quick` is worth, by rate, steps and moving average, on held-out and on test images.

    python -m benchmarks heal-rates RESULT.json                               # one GPU, minutes
    python -m benchmarks heal-rates RESULT.json --steps 2 --rate 1e-5 --test 50      # smoke test

vit-cifar10 after the rewrites of `quick`, healed on the shipped training images in batches of 32 mixtures. Held-out
images are training images of the original, so their drift is also given for mixtures of two.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from benchmarks.lab import images as vit_lab
from benchmarks.lab import record
from compress.heal import HealOptions, ImageFeed, heal
from compress.heal.objective import kl_divergence
from compress.model import Transformer
from compress.recipe import load as load_recipe

MODEL = "vit-cifar10"


@torch.no_grad()
def logits(model: Transformer, batches: list[dict[str, Tensor]]) -> Tensor:
    """(S,C) for all batches."""
    return torch.cat([model(batch) for batch in batches])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=Path)
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 40, 160, 640])
    parser.add_argument("--rate", type=float, nargs="+", default=[1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4])
    parser.add_argument("--average", type=float, nargs="+", default=[0.0, 0.9])
    parser.add_argument("--hidden", type=float, nargs="+", default=[1.0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--test", type=int, help="how many test images, for smoke tests")
    args = parser.parse_args()
    torch.manual_seed(0)
    on_gpu = torch.cuda.is_available()
    accelerator = Accelerator(mixed_precision="no")
    device = accelerator.device
    recipe = load_recipe("quick", [f'model.source="zoo:{MODEL}"'])
    teacher = vit_lab.original(MODEL)
    train, _ = vit_lab.training_parts("zoo:cifar10-train")
    order = np.random.default_rng(0).permutation(len(train))
    held_out, fit = order[:256], order[256:640]

    def feed(dataset: Any) -> ImageFeed:
        return ImageFeed(dataset, teacher.structure.preprocessing, 0, device)

    known = vit_lab.prepared(train.subset(np.sort(fit)), teacher, "cpu")
    tables = [{key: value for key, value in table.items() if key != "optional"} for table in recipe.rewrite]
    student = vit_lab.rewritten(teacher, tables, vit_lab.calibration_of(teacher, known.images, []))
    feeds = feed(train.subset(np.sort(order[256:]))), feed(train.subset(np.sort(held_out)))
    tested = vit_lab.test_images("zoo:cifar10-test", args.test)
    judged = list(feeds[1].judging(256))
    sets = {"held_out": judged[: len(judged) // 2], "held_out_mixed": judged[len(judged) // 2 :]}
    sets["test"] = feed(tested).plain(1000)
    original = teacher.copy().to(device)
    targets = {name: logits(original, batches) for name, batches in sets.items()}
    labels_S = torch.from_numpy(tested.labels).to(device)

    def scores(model: Transformer) -> dict[str, Any]:
        model = model.copy().to(device).eval()
        answers = {name: logits(model, batches) for name, batches in sets.items()}
        drifts = {name: round(float(kl_divergence(answers[name], targets[name], 1.0)), 6) for name in sets}
        return drifts | {"scores": vit_lab.scores(answers["test"], targets["test"], labels_S)}

    rows: list[dict[str, Any]] = [{"steps": 0, **scores(student)}]
    print(rows[-1], flush=True)
    for steps, average, hidden, rate in itertools.product(args.steps, args.average, args.hidden, args.rate):
        options = HealOptions(
            steps=steps, batch_size=args.batch, lr=rate, mixup=True, average=average, hidden=hidden, eval_every=steps
        )
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as work:
            healed = heal(student, teacher, *feeds, options, accelerator, Path(work), lambda *_, **__: None)
        seconds = round(time.perf_counter() - start, 2)
        setting = {"steps": steps, "rate": rate, "average": average, "hidden": hidden, "seconds": seconds}
        rows.append({**setting, **scores(healed.model)})
        print(rows[-1], flush=True)
        surroundings = {**record.surroundings(), "on_gpu": on_gpu, "batch": args.batch}
        record.save(args.json, {"command": record.command("heal-rates"), **surroundings, "rows": rows})


if __name__ == "__main__":
    main()
