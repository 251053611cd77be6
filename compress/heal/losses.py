"""What healing minimises. B batch, N tokens, D hidden size, C classes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from compress.heal.options import HealOptions
from compress.model.block import Site
from compress.model.transformer import Transformer


def traced(model: torch.nn.Module, inputs: dict[str, Tensor], steps: list[int]) -> tuple[Tensor, list[Tensor]]:
    """The model's output and its hidden states (B,N,D) after the given steps of its schedule."""
    seen: dict[int, Tensor] = {}

    def observe(step: int, site: Site, x_BND: Tensor) -> None:
        if site == "out":
            seen[step] = x_BND

    logits = model(inputs, observe)
    return logits, [seen[step] for step in steps]


def kl_divergence(logits_BC: Tensor, target_BC: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(target / T) || softmax(logits / T)), mean over the batch (Hinton et al. 2015)."""
    log_p_BC = F.log_softmax(logits_BC.float() / temperature, dim=-1)
    log_q_BC = F.log_softmax(target_BC.float() / temperature, dim=-1)
    return temperature**2 * F.kl_div(log_p_BC, log_q_BC, reduction="batchmean", log_target=True)


def relative_error(x_BND: Tensor, target_BND: Tensor) -> Tensor:
    """Mean squared error over the variance of the target, on the tokens that x still has."""
    target_BND = target_BND[:, : x_BND.shape[1]].float()
    return (x_BND.float() - target_BND).square().mean() / target_BND.var().clamp(min=1e-12)


def distillation_loss(
    options: HealOptions,
    answer: tuple[Tensor, list[Tensor]],
    target: tuple[Tensor, list[Tensor]],
    labels_BC: Tensor,
) -> Tensor:
    """The loss of `HealOptions`. `answer` and `target`: logits and the hidden states to hold to each other;
    `labels`: the shares of the classes in each input."""
    loss = options.kl * kl_divergence(answer[0], target[0], options.temperature)
    if options.hidden:
        errors = [relative_error(mine, theirs) for mine, theirs in zip(answer[1], target[1], strict=True)]
        loss = loss + options.hidden * torch.stack(errors).mean()
    if options.task:
        loss = loss + options.task * F.cross_entropy(answer[0].float(), labels_BC)
    return loss


def distilled(
    model: torch.nn.Module,
    inputs: dict[str, Tensor],
    steps: list[int],
    options: HealOptions,
    target: tuple[Tensor, list[Tensor]],
    labels_BC: Tensor,
) -> Tensor:
    """The model's loss against the original's answer."""
    return distillation_loss(options, traced(model, inputs, steps), target, labels_BC)


def changed_steps(model: Transformer, original: Transformer, targets: list[int]) -> list[int]:
    """Steps whose block is built otherwise than the original's, or has to stand for several of them."""
    theirs = original.structure
    return [
        index
        for index, step in enumerate(model.structure.schedule)
        if targets[index] != step.origin
        or model.structure.blocks[step.block] != theirs.blocks[theirs.schedule[targets[index]].block]
    ]
