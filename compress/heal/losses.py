"""What healing minimises. B batch, N tokens, D hidden size."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from compress.heal.objective import Objective
from compress.heal.options import HealOptions
from compress.model.block import Site
from compress.model.transformer import Transformer


def traced(model: torch.nn.Module, inputs: dict[str, Tensor], steps: list[int]) -> tuple[Tensor, list[Tensor]]:
    """The model's output and its hidden states (B,N,D) after the given steps of its schedule."""
    seen: dict[int, Tensor] = {}

    def observe(step: int, site: Site, x_BND: Tensor) -> None:
        if site == "out":
            seen[step] = x_BND

    output = model(inputs, observe)
    return output, [seen[step] for step in steps]


def relative_error(x_BND: Tensor, target_BND: Tensor, mask_BN: Tensor | None = None) -> Tensor:
    """Mean squared error over the variance of the target, on the tokens that x still has and that `mask` keeps."""
    kept = x_BND.shape[1]
    x_BND, target_BND = x_BND.float(), target_BND[:, :kept].float()
    squared_BND = (x_BND - target_BND).square()
    if mask_BN is None:
        return squared_BND.mean() / target_BND.var().clamp(min=1e-12)
    weight_BN1 = mask_BN[:, :kept, None].float()
    count = weight_BN1.sum().clamp(min=1) * x_BND.shape[2]
    mean = (weight_BN1 * target_BND).sum() / count
    variance = (weight_BN1 * (target_BND - mean).square()).sum() / (count - 1)
    return (weight_BN1 * squared_BND).sum() / count / variance.clamp(min=1e-12)


def token_mask(inputs: Mapping[str, Tensor]) -> Tensor | None:
    """Which tokens are real, (B,N); None where all are."""
    return inputs.get("attention_mask")


def distillation_loss(
    objective: Objective,
    options: HealOptions,
    answer: tuple[Tensor, list[Tensor]],
    target: tuple[Tensor, list[Tensor]],
    inputs: Mapping[str, Tensor],
    labels: Tensor | None,
) -> Tensor:
    """The loss of `HealOptions`. `answer` and `target`: outputs and the hidden states to hold to each other."""
    loss = objective.loss(options, answer[0], target[0], inputs, labels)
    if options.hidden:
        mask_BN = token_mask(inputs)
        errors = [relative_error(mine, theirs, mask_BN) for mine, theirs in zip(answer[1], target[1], strict=True)]
        loss = loss + options.hidden * torch.stack(errors).mean()
    return loss


def distilled(
    objective: Objective,
    model: torch.nn.Module,
    inputs: dict[str, Tensor],
    steps: list[int],
    options: HealOptions,
    target: tuple[Tensor, list[Tensor]],
    labels: Tensor | None,
) -> Tensor:
    """The model's loss against the original's answer."""
    return distillation_loss(objective, options, traced(model, inputs, steps), target, inputs, labels)


def changed_steps(model: Transformer, original: Transformer, targets: list[int]) -> list[int]:
    """Steps whose block is built otherwise than the original's, or has to stand for several of them."""
    theirs = original.structure
    return [
        index
        for index, step in enumerate(model.structure.schedule)
        if targets[index] != step.origin
        or model.structure.blocks[step.block] != theirs.blocks[theirs.schedule[targets[index]].block]
    ]
