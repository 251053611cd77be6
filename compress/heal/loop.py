"""The training loop that both parts of healing share: AdamW, warm-up and cosine, clipping, checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from compress.heal.checkpoint import Checkpoints
from targets.errors import InputError

WARMUP = 0.05
CLIP = 1.0


@dataclass(frozen=True)
class Loop:
    """`loss(step)` is minimised over `parameters` for `steps` steps at the peak rate `lr`. `tell(step, loss)` is
    called after each step, `review(step)` too, and a review that returns False ends the loop. `extra` is kept in the
    checkpoints beside the training state."""

    accelerator: Accelerator
    module: nn.Module
    parameters: list[nn.Parameter]
    steps: int
    lr: float
    loss: Callable[[int], Tensor]
    tell: Callable[[int, float], None]
    review: Callable[[int], bool]
    checkpoints: Checkpoints
    extra: dict[str, Any]

    def run(self) -> None:
        """Train. Raises InputError if the loss is no longer finite."""
        on_gpu = self.accelerator.device.type == "cuda"  # one kernel in place of one a tensor
        optimizer = self.accelerator.prepare_optimizer(
            torch.optim.AdamW(self.parameters, lr=self.lr, betas=(0.9, 0.95), weight_decay=0.0, fused=on_gpu)
        )
        for step in range(self._resume(optimizer), self.steps):
            for group in optimizer.param_groups:
                group["lr"] = self.lr * _rate(step, self.steps)
            loss = self.loss(step)
            self.accelerator.backward(loss)
            self.accelerator.clip_grad_norm_(self.parameters, CLIP)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            self._tell(step + 1, loss)
            goes_on = self.review(step + 1)
            if not goes_on or self.checkpoints.due():
                self._save(optimizer, step + 1 if goes_on else self.steps)
            if not goes_on:
                return

    def _tell(self, step: int, loss: Tensor) -> None:
        # Reading the loss waits for the device, so on a GPU it is read now and then only.
        if self.accelerator.device.type != "cpu" and step % 50 and step != self.steps:
            return
        value = float(loss.detach())
        if not math.isfinite(value):
            raise InputError(f"healing diverged at step {step}: the loss is {value}; lower heal.lr or rewrite less")
        self.tell(step, value)

    def _resume(self, optimizer: Any) -> int:
        state = self.checkpoints.load()
        if state is None:
            return 0
        self.module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        self.extra.clear()
        self.extra.update(state["extra"])
        return int(state["step"])

    def _save(self, optimizer: Any, step: int) -> None:
        if self.accelerator.is_main_process:
            module, extra = self.module.state_dict(), self.extra
            self.checkpoints.save({"step": step, "module": module, "optimizer": optimizer.state_dict(), "extra": extra})


def _rate(step: int, steps: int) -> float:
    """Share of the peak rate: linear warm-up, then cosine to zero."""
    warmup = max(1, round(WARMUP * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
