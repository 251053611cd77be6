"""Attention transfer: each new mixer alone learns to do what the original's attention does.

B batch, N tokens, D hidden size, H heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.heal.losses import relative_error, token_mask
from compress.model.block import Site
from compress.model.mixer import Context
from compress.model.transformer import Transformer


@dataclass(frozen=True)
class AttentionTransfer:
    """The steps of the student whose mixers have something that no softmax attention has (`Mixer.learned`), each with
    the step of the teacher that it comes from. Only these parameters are trained: the LoLCATs recipe's first half
    (Zhang et al. 2024, arXiv 2410.10254)."""

    student: Transformer
    teacher: Transformer
    steps: tuple[int, ...]
    origins: tuple[int, ...]

    @classmethod
    def of(cls, student: Transformer, teacher: Transformer) -> AttentionTransfer:
        """The transfer for all such mixers; those of looped blocks learn from all their steps."""
        places = {step.origin: index for index, step in enumerate(teacher.structure.schedule)}
        pairs = [
            (index, places[step.origin])
            for index, step in enumerate(student.structure.schedule)
            if step.origin in places and _learned(student, step.block)
        ]
        return cls(student, teacher, tuple(index for index, _ in pairs), tuple(origin for _, origin in pairs))

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""
        blocks = sorted({self.student.structure.schedule[step].block for step in self.steps})
        return [parameter for block in blocks for parameter in _learned(self.student, block)]

    def loss(self, inputs: dict[str, Tensor], rows: float) -> Tensor:
        """Mean over the mixers of MSE / variance of their outputs, on the hidden states of the teacher, plus `rows`
        times the cross-entropy of their attention rows where they have such (Hedgehog, arXiv 2402.04347)."""
        with torch.no_grad():
            start_BND, context = self.teacher.embed(inputs)
            seen = _seen(self.teacher, inputs, self.origins)
        losses = []
        for step, origin in zip(self.steps, self.origins, strict=True):
            x_BND = seen[origin - 1, "out"] if origin else start_BND
            place = self.student.structure.schedule[step]
            found = self.student.block(place.block).mixed(x_BND, place.loop, context)
            loss = relative_error(found["mixer.out"], seen[origin, "mixer.out"], token_mask(inputs))
            if rows:
                theirs = self.teacher.structure.schedule[origin]
                mine_BHNN = _rows(self.student, place.block, place.loop, found["mixer.in"], context)
                with torch.no_grad():
                    target_BHNN = _rows(self.teacher, theirs.block, theirs.loop, seen[origin, "mixer.in"], context)
                if mine_BHNN is not None and target_BHNN is not None:
                    loss = loss + rows * row_cross_entropy(mine_BHNN, target_BHNN, token_mask(inputs))
            losses.append(loss)
        return torch.stack(losses).mean()


def row_cross_entropy(rows_BHNM: Tensor, target_BHNM: Tensor, mask_BN: Tensor | None) -> Tensor:
    """-sum_j target_ij log row_ij, mean over heads and over the real queries."""
    kept = rows_BHNM.shape[2]
    entropy_BHN = -(target_BHNM[:, :, :kept].float() * rows_BHNM.float().clamp(min=1e-9).log()).sum(dim=-1)
    if mask_BN is None:
        return entropy_BHN.mean()
    weight_B1N = mask_BN[:, None, :kept].float()
    return (entropy_BHN * weight_B1N).sum() / weight_B1N.sum().clamp(min=1) / entropy_BHN.shape[1]


def _learned(model: Transformer, block: int) -> list[nn.Parameter]:
    mixer = model.block(block).mixer
    return [] if mixer is None else mixer.learned()


def _rows(model: Transformer, block: int, loop: int, x_BND: Tensor, context: Context) -> Tensor | None:
    mixer = model.block(block).mixer
    assert mixer is not None
    return mixer.attention(x_BND, loop, context)


def _seen(
    teacher: Transformer, inputs: dict[str, Tensor], origins: tuple[int, ...]
) -> Mapping[tuple[int, Site], Tensor]:
    """What the teacher's chosen steps get and give."""
    seen: dict[tuple[int, Site], Tensor] = {}

    def observe(step: int, site: Site, x_BND: Tensor) -> None:
        if (step + 1 in origins and site == "out") or (step in origins and site in ("mixer.in", "mixer.out")):
            seen[step, site] = x_BND

    teacher(inputs, observe)
    return seen
