"""What healing minimizes. B batch, N tokens, D hidden size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from compress.heal.objective import Objective
from compress.heal.options import HealOptions
from compress.model.block import Site
from compress.model.reducers.first import First
from compress.model.sequence import Context, Tokens, aligned
from compress.model.transformer import Transformer


def traced(model: torch.nn.Module, inputs: dict[str, Tensor], steps: list[int]) -> tuple[Tensor, list[Tokens]]:
    """The model's output and its hidden states (B,N,D) after the given steps of its schedule."""
    seen: dict[int, Tokens] = {}

    def observe(step: int, site: Site, tokens: Tokens) -> None:
        if site == "out":
            seen[step] = tokens

    output = model(inputs, observe)
    return output, [seen[step] for step in steps]


def relative_error(mine: Tokens, theirs: Tokens) -> Tensor:
    """Mean squared error over the variance of the original's, on the real ones of the tokens that the model has."""
    x_BND, target_BND = mine.x_BND.float(), aligned(theirs, mine.context).float()
    mask_BN = mine.context.mask_BM
    squared_BND = (x_BND - target_BND).square()
    if mask_BN is None:
        return squared_BND.mean() / target_BND.var().clamp(min=1e-12)
    weight_BN1 = mask_BN[..., None].float()
    count = weight_BN1.sum().clamp(min=1) * x_BND.shape[2]
    mean = (weight_BN1 * target_BND).sum() / count
    variance = (weight_BN1 * (target_BND - mean).square()).sum() / (count - 1)
    return (weight_BN1 * squared_BND).sum() / count / variance.clamp(min=1e-12)


def reducing_steps(model: Transformer) -> list[int]:
    """The steps behind which something is left of all tokens, and fewer of them."""
    blocks = [model.block(step.block) for step in model.structure.schedule]
    return [step for step, block in enumerate(blocks) if block.reducer is not None and block.leading is None]


def contexts_fed(model: Transformer, start: Context, outputs: Sequence[Tokens]) -> list[Context]:
    """What the tokens carry that go into each step when the model is fed the original's hidden states. `outputs`: the
    original's for each of the `reducing_steps`."""
    found, context, rest = list[Context](), start, iter(outputs)
    for step in model.structure.schedule:
        found.append(context)
        block = model.block(step.block)
        if block.leading is not None:
            context = context.reduced(First(block.leading))
        elif block.reducer is not None:
            context = context.reduced(block.reducer.reduction(aligned(next(rest), context), context))
    return found


def distillation_loss(
    objective: Objective,
    options: HealOptions,
    answer: tuple[Tensor, list[Tokens]],
    target: tuple[Tensor, list[Tokens]],
    inputs: Mapping[str, Tensor],
    labels: Tensor | None,
) -> Tensor:
    """The loss of `HealOptions`. `answer` and `target`: outputs and the hidden states to hold to each other."""
    loss = objective.loss(options, answer[0], target[0], inputs, labels)
    if options.hidden:
        errors = [relative_error(mine, theirs) for mine, theirs in zip(answer[1], target[1], strict=True)]
        loss = loss + options.hidden * torch.stack(errors).mean()
    return loss


def distilled(
    objective: Objective,
    model: torch.nn.Module,
    inputs: dict[str, Tensor],
    steps: list[int],
    options: HealOptions,
    target: tuple[Tensor, list[Tokens]],
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
