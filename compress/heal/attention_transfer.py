"""Attention transfer: each new mixer alone learns to do what the original's attention does.

B batch, N tokens, D hidden size, H heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.heal.losses import contexts_fed, reducing_steps, relative_error
from compress.model.block import Site
from compress.model.sequence import Tokens, aligned, aligned_rows
from compress.model.structure import output_targets
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
            start = self.teacher.begun(inputs)
            reducing = self._reducing()
            seen = _seen(self.teacher, inputs, self.origins, reducing)
            contexts = contexts_fed(self.student, start.context, [seen[step, "out"] for step in reducing])
        losses = []
        for step, origin in zip(self.steps, self.origins, strict=True):
            x_BND = aligned(seen[origin - 1, "out"] if origin else start, contexts[step])
            place = self.student.structure.schedule[step]
            found = self.student.block(place.block).mixed(x_BND, place.loop, contexts[step])
            loss = relative_error(found["mixer.out"], seen[origin, "mixer.out"])
            if rows:
                theirs = self.teacher.structure.schedule[origin]
                asked, wanted = found["mixer.in"], seen[origin, "mixer.in"]
                mine_BHNN = _rows(self.student, place.block, place.loop, asked)
                with torch.no_grad():
                    target_BHNN = _rows(self.teacher, theirs.block, theirs.loop, wanted)
                if mine_BHNN is not None and target_BHNN is not None:
                    target_BHNN = aligned_rows(target_BHNN, (wanted.context,) * 2, (asked.context,) * 2)
                    loss = loss + rows * row_cross_entropy(mine_BHNN, target_BHNN, asked.context.mask_BM)
            losses.append(loss)
        return torch.stack(losses).mean()

    def _reducing(self) -> list[int]:
        """The teacher's steps whose output the student goes on with fewer tokens of."""
        targets = output_targets(self.student.structure, self.teacher.structure)
        return [targets[step] for step in reducing_steps(self.student)]


def row_cross_entropy(rows_BHNM: Tensor, target_BHNM: Tensor, mask_BN: Tensor | None) -> Tensor:
    """-sum_j target_ij log row_ij, mean over heads and over the real queries."""
    entropy_BHN = -(target_BHNM.float() * rows_BHNM.float().clamp(min=1e-9).log()).sum(dim=-1)
    if mask_BN is None:
        return entropy_BHN.mean()
    weight_B1N = mask_BN[:, None].float()
    return (entropy_BHN * weight_B1N).sum() / weight_B1N.sum().clamp(min=1) / entropy_BHN.shape[1]


def _learned(model: Transformer, block: int) -> list[nn.Parameter]:
    mixer = model.block(block).mixer
    return [] if mixer is None else mixer.learned()


def _rows(model: Transformer, block: int, loop: int, tokens: Tokens) -> Tensor | None:
    mixer = model.block(block).mixer
    assert mixer is not None
    return mixer.attention(tokens.x_BND, loop, tokens.context)


def _seen(
    teacher: Transformer, inputs: dict[str, Tensor], origins: tuple[int, ...], reducing: list[int]
) -> Mapping[tuple[int, Site], Tokens]:
    """What the teacher's chosen steps get and give."""
    seen: dict[tuple[int, Site], Tokens] = {}
    given = {origin - 1 for origin in origins} | set(reducing)

    def observe(step: int, site: Site, tokens: Tokens) -> None:
        if (step in given and site == "out") or (step in origins and site in ("mixer.in", "mixer.out")):
            seen[step, site] = tokens

    teacher(inputs, observe)
    return seen
