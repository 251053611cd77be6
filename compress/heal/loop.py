"""The training loop that all phases of healing share: warm-up and cosine, checkpoints, progress."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn

from compress.heal.checkpoint import Checkpoints
from compress.heal.training import Drawn, Loss, Training
from targets.errors import InputError

WARMUP = 0.05


@dataclass(frozen=True)
class Loop:
    """`loss(draw(step))` is minimized over `parameters` for `steps` steps at the peak rate `lr`. `draw` is called on
    the host, and what it gives travels to the device (see `Training`). `tell(step, loss)` is called after each step,
    `review(step, averaged)` too: within `averaged` the parameters are their moving average if there is one. A review
    that returns False ends the loop. `extra` is kept in the checkpoints beside the training state."""

    accelerator: Accelerator
    module: nn.Module
    parameters: list[nn.Parameter]
    steps: int
    lr: float
    draw: Callable[[int], Drawn]
    loss: Loss
    tell: Callable[[int, float], None]
    review: Callable[[int, AbstractContextManager[None]], bool]
    checkpoints: Checkpoints
    extra: dict[str, Any]
    weight_decay: float = 0.0
    average: float = 0.0

    def run(self) -> None:
        """Train. Raises InputError if the loss is no longer finite."""
        training = Training(
            self.parameters,
            self.loss,
            weight_decay=self.weight_decay,
            average=self.average,
            capture=captures(self.accelerator),
        )
        for step in range(self._resume(training), self.steps):
            loss = training.update(self.draw(step), self.lr * _rate(step, self.steps), step)
            self._tell(step + 1, loss)
            goes_on = self.review(step + 1, training.averaged())
            if not goes_on or self.checkpoints.due():
                self._save(training, step + 1 if goes_on else self.steps)
            if not goes_on:
                return

    def _tell(self, step: int, loss: Tensor) -> None:
        # Reading the loss waits for the device, so on a GPU it is read now and then only.
        if self.accelerator.device.type != "cpu" and step % 50 and step != self.steps:
            return
        value = float(loss)
        if not math.isfinite(value):
            raise InputError(f"healing diverged at step {step}: the loss is {value}; lower heal.lr or rewrite less")
        self.tell(step, value)

    def _resume(self, training: Training) -> int:
        state = self.checkpoints.load()
        if state is None:
            return 0
        self.module.load_state_dict(state["module"])
        training.restore(state["training"])
        self.extra.clear()
        self.extra.update(state["extra"])
        return int(state["step"])

    def _save(self, training: Training, step: int) -> None:
        if self.accelerator.is_main_process:
            module, extra = self.module.state_dict(), self.extra
            self.checkpoints.save({"step": step, "module": module, "training": training.state(), "extra": extra})


def _rate(step: int, steps: int) -> float:
    """Share of the peak rate: linear warm-up, then cosine to zero."""
    warmup = max(1, round(WARMUP * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def captures(accelerator: Accelerator) -> bool:
    """Whether steps are captured as CUDA graphs: on one GPU; several processes exchange gradients between steps."""
    return accelerator.device.type == "cuda" and accelerator.num_processes == 1
