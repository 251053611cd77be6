"""heal_killed.py FOLDER INTERVAL: heals in child processes, each killed at the next step that was never reached.

A child kills itself with SIGKILL while it reports a step; the one after goes on from the folder FOLDER/work. The last
lives and saves its model in FOLDER/model. Prints the steps at which children died. INTERVAL: of checkpoints, seconds.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

from support.healing import damaged, digits, healed, tiny

from compress.heal import checkpoint
from compress.model import Transformer, save

OPTIONS: dict[str, Any] = {
    "attention_steps": 2,
    "attention_rows": 0.1,
    "transfer_steps": 4,
    "steps": 7,
    "eval_every": 2,
    "patience": 9,
    "lr": 0.02,
    "task": 0.2,
    "mixup": True,
}


def pair() -> tuple[Transformer, Transformer]:
    """A model that is far from its original, has linear attention and still holds the old values of a layer, and the
    original."""
    original = tiny()
    model = damaged(original, "drop-projection", layers=[1], anneal=True)
    model = damaged(model, "linear-attention", layers=[0], feature="t2r", size=4)
    with torch.no_grad():
        model.head.output.weight.neg_()
    return model, original


def run(folder: Path, deadly: float) -> None:
    """Heal, and die on reporting the step `deadly`."""

    def progress(done: float, total: float, note: str = "", **numbers: float) -> None:
        if done == deadly:
            os.kill(os.getpid(), signal.SIGKILL)

    save(healed(*pair(), folder / "work", progress=progress, **OPTIONS).model, folder / "model")


def main(folder: Path, interval: float) -> None:
    torch.set_num_threads(1)
    checkpoint.INTERVAL = interval
    # Read and imported once; decoding, which starts threads, is left to the children.
    digits()
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])
    for step in range(1, 15):
        child = os.fork()
        if child == 0:
            run(folder, step)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            print(step)
        elif status:
            raise SystemExit(f"the child to be killed at step {step} failed by itself")


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
