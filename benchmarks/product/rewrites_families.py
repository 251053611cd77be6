"""Every rewrite on a tiny model of each family that came later: it works, or is refused with its reason.

    python -m benchmarks rewrites-families benchmarks/results/rewrites-families.json

"Works" means what every rewrite owes (finite weights; the same outputs, if it is exact) and finite outputs behind it.
Each gets the least options that it names itself. `python -m benchmarks models-table` writes the table of the page.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.lab import record
from benchmarks.product.quick_families import CASES
from compress import tasks
from compress.model import Transformer
from compress.rewrites import REWRITES, Calibration, parse_options, run_rewrite
from targets.errors import InputError, run_cli

#: Families whose attention, norms or heads differ from those that the rewrites were written for.
FAMILIES = (
    *("qwen3", "gemma-3", "lfm2", "modernbert-classes", "mpnet-embedding", "nomic-embedding", "deberta-entailment"),
    *("electra-questions", "siglip", "clip", "dinov3", "timm"),
)
BATCHES = 6


def outcomes(name: str, folder: Path) -> dict[str, str]:
    """Rewrite -> "works", or the line of its refusal."""
    CASES[name][1](folder)
    task = tasks.of_folder(folder)
    model = tasks.read_checkpoint(folder, task.preprocessing(folder, lambda line: None))
    inputs = [case for seed in range(BATCHES) for case in task.graph_inputs(model.structure, seed).cases[:1]]

    def batches() -> Iterator[dict[str, Tensor]]:
        return iter(inputs)

    calibration = Calibration(model, batches, lambda line: None)
    return {use: _outcome(use, model, calibration) for use in sorted(REWRITES)}


def _outcome(use: str, model: Transformer, calibration: Calibration) -> str:
    options = REWRITES[use].options.example().model_dump(mode="json", exclude_unset=True)
    try:
        result = run_rewrite(*parse_options({"use": use, **options}), model, calibration)
    except InputError as refusal:
        return str(refusal)
    with torch.no_grad():
        given = result(next(calibration.batches()))
    return "works" if bool(torch.isfinite(given).all()) else "gives outputs that are not finite"


def main() -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for name in FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = outcomes(name, Path(folder) / "model")
        print(name, sum(one == "works" for one in found[name].values()), "of", len(REWRITES), flush=True)
    record.save(args.json, {"command": record.command("rewrites-families"), "rewrites": found})
    return 0


if __name__ == "__main__":
    run_cli(main)
