"""Where a rewritten model leaves its original: the output of every step of its schedule held against the original's.

B batch, N tokens, D hidden size, H heads, M keys.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from compress.model.block import Block, Site
from compress.model.sequence import Context, Tokens, aligned, aligned_rows
from compress.model.structure import Step, Structure, output_targets
from compress.model.transformer import Transformer
from compress.verification.report_data import BlockRow


def comparable(original: Structure, structure: Structure) -> str | None:
    """Why the blocks of the two cannot be held against each other, or None."""
    if original.hidden_size != structure.hidden_size:
        return f"the hidden sizes differ: {original.hidden_size} and {structure.hidden_size}"
    if [step.origin for step in original.schedule] != list(range(len(original.schedule))):
        return "the reference is itself a rewritten model, whose blocks are not those that the candidate stands for"
    origins = [step.origin for step in structure.schedule]
    if origins != sorted(origins) or not origins or origins[-1] >= len(original.schedule):
        return f"the candidate's blocks stand for the layers {origins} of {len(original.schedule)}"
    return None


def compare_blocks(original: Transformer, model: Transformer, batches: Iterable[dict[str, Tensor]]) -> list[BlockRow]:
    """A row for the embedding and one per step of the model's schedule, in order; none where a block gives what is not
    finite. Padding is left out.

    Raises ValueError where the two are not `comparable` or there is no batch.
    """
    if fault := comparable(original.structure, model.structure):
        raise ValueError(fault)
    targets = output_targets(model.structure, original.structure)
    names = ["embedding", *(_name(index, step, model) for index, step in enumerate(model.structure.schedule))]
    sums = [_Sums() for _ in names]
    with torch.inference_mode():
        for inputs in batches:
            wanted = _trace(original, inputs)
            given = _trace(model, inputs)
            sums[0].add(wanted.states[0], given.states[0])
            for index, step in enumerate(model.structure.schedule):
                before, here = wanted.states[targets[index - 1] + 1] if index else wanted.states[0], given.states[index]
                own = model.block(step.block)(aligned(before, here.context), step.loop, here.context)
                sums[index + 1].add(wanted.states[targets[index] + 1], given.states[index + 1], own[0])
                sums[index + 1].add_attention(wanted.attention[step.origin], given.attention[index])
    if not sums[0].tokens:
        raise ValueError("there is no input to compare the blocks on")
    if not all(total.finite for total in sums):
        return []
    return [total.row(name) for name, total in zip(names, sums, strict=True)]


def _name(index: int, step: Step, model: Transformer) -> str:
    loop = f", loop {step.loop}" if model.structure.blocks[step.block].loops > 1 else ""
    layer = f" (layer {step.origin})" if step.origin != index else ""
    return f"block {step.block}{loop}{layer}"


@dataclass(frozen=True)
class _Rows:
    """Attention rows (B,H,N,M), and what the queries and the keys carry."""

    rows_BHNM: Tensor
    sides: tuple[Context, Context]


@dataclass(frozen=True)
class _Trace:
    """What one model does to a batch: the embedding and each step's output, and each step's attention rows."""

    states: list[Tokens]
    attention: list[_Rows | None]


def _trace(model: Transformer, inputs: dict[str, Tensor]) -> _Trace:
    trace = _Trace([model.begun(inputs)], [])
    for step in model.structure.schedule:
        seen: dict[Site, Tokens] = {}
        model.block(step.block)(trace.states[-1].x_BND, step.loop, trace.states[-1].context, seen.__setitem__)
        trace.states.append(seen["out"])
        trace.attention.append(_rows(model.block(step.block), step.loop, seen))
    return trace


def _rows(block: Block, loop: int, seen: dict[Site, Tokens]) -> _Rows | None:
    """The attention rows of a block that has shown what passed it, if its mixer has any."""
    rows_BHNM = block.attention(seen["mixer.in"], loop) if block.mixer is not None else None
    return None if rows_BHNM is None else _Rows(rows_BHNM, (seen["mixer.out"].context, seen["mixer.in"].context))


class _Sums:
    """Running sums over the real tokens of the batches, in float64."""

    def __init__(self) -> None:
        self.tokens = self.rows = 0
        self.error = self.own = self.size = self.cosine = self.kl = 0.0
        self.has_own = False

    def add(self, theirs: Tokens, mine: Tokens, own_BND: Tensor | None = None) -> None:
        """Count what the original and the model have, on the tokens that the model has."""
        wanted = _real(aligned(theirs, mine.context), mine.context)
        given = _real(mine.x_BND, mine.context)
        self.tokens += len(wanted)
        self.size += float(wanted.square().sum())
        self.error += float((given - wanted).square().sum())
        self.cosine += float(torch.nn.functional.cosine_similarity(given, wanted, dim=-1).sum())
        if own_BND is not None:
            self.has_own = True
            self.own += float((_real(own_BND, mine.context) - wanted).square().sum())

    def add_attention(self, theirs: _Rows | None, mine: _Rows | None) -> None:
        """KL(original || model) of each row, where both have as many heads."""
        if theirs is None or mine is None or theirs.rows_BHNM.shape[1] != mine.rows_BHNM.shape[1]:
            return
        wanted, given = aligned_rows(theirs.rows_BHNM, theirs.sides, mine.sides).double(), mine.rows_BHNM.double()
        tiny = torch.finfo(torch.float32).tiny
        kl_BHN = (wanted * (wanted.clamp(min=tiny).log() - given.clamp(min=tiny).log())).sum(-1).clamp(min=0)
        kl_TH = _real(kl_BHN.transpose(1, 2), mine.sides[0])
        self.rows += kl_TH.numel()
        self.kl += float(kl_TH.sum())

    @property
    def finite(self) -> bool:
        return math.isfinite(self.error + self.own + self.size + self.cosine + self.kl)

    def row(self, name: str) -> BlockRow:
        size = max(self.size, 1e-30)
        return BlockRow(
            name=name,
            relative_error=_told((self.error / size) ** 0.5),
            own_error=_told((self.own / size) ** 0.5) if self.has_own else None,
            cosine=_told(self.cosine / self.tokens),
            attention_kl=_told(self.kl / self.rows) if self.rows else None,
        )


def _told(value: float) -> float:
    """Six digits: threads add up in any order, which must not change the bytes of a bundle's report."""
    return float(f"{value:.6g}")


def _real(x_BNK: Tensor, context: Context) -> Tensor:
    """The rows of real tokens (T, K), in float64."""
    if context.mask_BM is None:
        return x_BNK.flatten(0, 1).double()
    return x_BNK[context.mask_BM.bool()].double()
