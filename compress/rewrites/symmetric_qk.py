"""symmetric-qk: one projection serves queries and keys. D hidden size, H heads, R rank."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from compress.model.block import BlockSpec
from compress.model.scores.symmetric import SymmetricScores, SymmetricScoresSpec
from compress.model.structure import Structure
from compress.model.transformer import Transformer
from compress.rewrites.calibration import Calibration, Moments, input_moments, roots
from compress.rewrites.layers import Layers, resolve
from compress.rewrites.rewrite import Options, rewrite
from compress.rewrites.search_range import SearchRange, counts, head_size
from compress.rewrites.surgery import (
    Special,
    attention,
    attention_spec,
    logit_forms,
    refuse_positions,
    single_loop,
    with_blocks,
)
from targets.errors import InputError

NAME = "symmetric-qk"
#: What attention may have that this carries over.
CARRIES: frozenset[Special] = frozenset({"window", "bias"})


class SymmetricQk(Options):
    """`rank`: size of the shared projection per head. `signed`: allow negative directions (fixed signs); without,
    the form is positive, as plain Wq = Wk makes it."""

    rank: PositiveInt = Field(examples=[2])
    signed: bool = True
    layers: Layers = "all"


def _ranks(structure: Structure) -> Iterator[dict[str, Any]]:
    yield from ({"rank": size} for size in (head_size(structure) or 1, *counts(head_size(structure) or 1, 0.5)))


@rewrite(NAME, SymmetricQk, search=SearchRange(("mixer",), _ranks))
def symmetric_qk(model: Transformer, options: SymmetricQk, calibration: Calibration) -> Transformer:
    """Replace each head's query-key form by its best symmetric fit, which one projection makes for both sides.

    M_sym = (M + M^T) / 2; with C = E[x x^T], the R eigenpairs of C^1/2 M_sym C^1/2 of largest |value| give
    U = C^-1/2 E sqrt|value| and the signs, so that M ~ U diag(s) U^T; c_h is projected on U. Not exact: the skew part
    of M is lost, and a note says how much that is. "auto:K" takes the layers that lose least. Refused under rotary
    positions, for looped blocks and for ranks above D. Source: Bermeitinger et al. 2024 (arXiv 2410.13732), variant d.
    """

    def losses(blocks: list[int]) -> dict[int, float]:
        moments = input_moments(model, calibration, blocks, "mixer.in")
        return {block: _lost(model, block, moments[block], options) for block in blocks}

    blocks = resolve(
        options.layers, model, lambda spec: _check(spec, options.rank, model.structure.hidden_size), losses
    )
    moments = input_moments(model, calibration, blocks, "mixer.in")
    result = with_blocks(model, lambda spec: _symmetric(spec, options), blocks)
    for block in blocks:
        _set(model, result, block, moments[block], options)
        lost = _lost(model, block, moments[block], options)
        calibration.note(f"{NAME}: layer {block} loses {lost:.1%} of the logits' energy (skew part and rank)")
    return result


def _check(spec: BlockSpec, rank: int, hidden_size: int) -> None:
    refuse_positions(attention_spec(spec, NAME, CARRIES), NAME)
    single_loop(spec, NAME)
    if rank > hidden_size:
        raise InputError(f"{NAME} is refused: rank {rank} is above the hidden size {hidden_size}")


def _symmetric(spec: BlockSpec, options: SymmetricQk) -> BlockSpec:
    mixer = attention_spec(spec, NAME, CARRIES)
    scores = SymmetricScoresSpec(num_heads=mixer.scores.num_heads, head_dim=options.rank)
    return spec.replace(mixer=mixer.replace(scores=scores))


def _eigenpairs(model: Transformer, block: int, half_DD: Tensor, options: SymmetricQk) -> tuple[Tensor, Tensor, Tensor]:
    """Whitened forms (H,D,D) and, of their symmetric parts, the chosen eigenvalues (H,R) and vectors (H,D,R)."""
    whitened_HDD = half_DD @ logit_forms(attention(model.block(block)))[0] @ half_DD
    values_HD, vectors_HDD = torch.linalg.eigh((whitened_HDD + whitened_HDD.transpose(1, 2)) / 2)
    size_HD = values_HD.abs() if options.signed else values_HD
    chosen_HR = size_HD.topk(options.rank, dim=1).indices
    values_HR = values_HD.gather(1, chosen_HR)
    if not options.signed:
        values_HR = values_HR.clamp(min=0)
    vectors_HDR = vectors_HDD.gather(2, chosen_HR[:, None].expand(-1, vectors_HDD.shape[1], -1))
    return whitened_HDD, values_HR, vectors_HDR


def _lost(model: Transformer, block: int, moments: Moments, options: SymmetricQk) -> float:
    half_DD, _ = roots(moments.second_II)
    whitened_HDD, values_HR, _ = _eigenpairs(model, block, half_DD, options)
    return 1 - float(values_HR.square().sum() / whitened_HDD.square().sum())


def _set(model: Transformer, result: Transformer, block: int, moments: Moments, options: SymmetricQk) -> None:
    half_DD, inverse_DD = roots(moments.second_II)
    _, values_HR, vectors_HDR = _eigenpairs(model, block, half_DD, options)
    root_HR = values_HR.abs().sqrt()
    shared_HDR = inverse_DD @ (vectors_HDR * root_HR[:, None])
    offsets_HD = logit_forms(attention(model.block(block)))[1]
    projected_HR = torch.einsum("hdr,hd->hr", vectors_HDR, offsets_HD @ half_DD)
    scores = attention(result.block(block)).scores
    assert isinstance(scores, SymmetricScores)
    scores.shared.set(shared_HDR.transpose(1, 2).flatten(0, 1).float())
    scores.signs_HK.copy_(torch.where(values_HR < 0, -1.0, 1.0).float())
    scores.offset[0].copy_(torch.where(root_HR > 0, projected_HR / root_HR.clamp(min=1e-12), 0.0).float())
