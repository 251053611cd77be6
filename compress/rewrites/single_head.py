"""single-head: all heads of a layer collapse into one. D hidden size, H heads."""

from __future__ import annotations

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from compress.model.block import BlockSpec
from compress.model.scores.projected import ProjectedScores, ProjectedScoresSpec
from compress.model.transformer import Transformer
from compress.model.values.gated_mean import GatedMean, GatedMeanSpec
from compress.rewrites.calibration import Calibration, input_moments, roots
from compress.rewrites.layers import Layers, resolve
from compress.rewrites.rewrite import Options, rewrite
from compress.rewrites.search_range import SearchRange, parts_of_width
from compress.rewrites.surgery import (
    Special,
    attention,
    attention_spec,
    logit_forms,
    refuse_positions,
    single_loop,
    values_spec,
    with_blocks,
)
from compress.rewrites.value_fit import fit_projection, importance
from targets.errors import InputError

NAME = "single-head"
#: What attention may have that this carries over.
CARRIES: frozenset[Special] = frozenset({"window"})


class SingleHead(Options):
    """`rank`: size of the one head's queries and keys."""

    rank: PositiveInt = Field(examples=[2])
    layers: Layers = "all"


@rewrite(NAME, SingleHead, search=SearchRange(("mixer",), parts_of_width("rank", 0.5, 0.25)))
def single_head(model: Transformer, options: SingleHead, calibration: Calibration) -> Transformer:
    """Collapse the heads of a layer into one head with one merged value-output matrix.

    M = sum_h w_h M_h with w_h the nuclear norm of C^1/2 Wv_h Wo_h, normalized; truncated to `rank` in the metric of
    C = E[x x^T]. The value-output matrix W (D x D) is the least-squares fit of the original's attention output on
    A x. Stores 2 D rank + D^2. Not exact, and usually costly: prefer low-rank-heads or prune-heads. "auto:K" takes
    the layers whose output is best explained. Refused under rotary positions, for looped blocks and for ranks above D.
    """
    blocks = resolve(
        options.layers,
        model,
        lambda spec: _check(spec, options.rank, model.structure.hidden_size),
        lambda blocks: {block: _collapse(model, options, calibration, block)[1] for block in blocks},
    )
    for block in blocks:  # one after the other, so that each is fitted on inputs that the earlier ones changed
        model, unexplained = _collapse(model, options, calibration, block)
        calibration.note(f"{NAME}: layer {block} leaves {unexplained:.1%} of its output unexplained")
    return model


def _check(spec: BlockSpec, rank: int, hidden_size: int) -> None:
    refuse_positions(attention_spec(spec, NAME, CARRIES), NAME)
    values_spec(spec, NAME, CARRIES)
    single_loop(spec, NAME)
    if rank > hidden_size:
        raise InputError(f"{NAME} is refused: rank {rank} is above the hidden size {hidden_size}")


def _collapse(
    model: Transformer, options: SingleHead, calibration: Calibration, block: int
) -> tuple[Transformer, float]:
    weights_H = importance(model, calibration, block)
    result = with_blocks(model, lambda spec: _one_head(spec, options), [block])
    _set_scores(model, result, calibration, block, weights_H, options.rank)
    fit = fit_projection(result, calibration, block, weights_H.new_ones(1))
    values = attention(result.block(block)).values
    assert isinstance(values, GatedMean) and values.output is not None
    values.output.set(fit.weight_IO.T.float(), fit.bias_O.float())
    return result, fit.fvu


def _one_head(spec: BlockSpec, options: SingleHead) -> BlockSpec:
    scores = ProjectedScoresSpec(
        num_heads=1, num_kv_heads=1, head_dim=options.rank, scale=1.0, query_bias=True, key_bias=False
    )
    mixer = attention_spec(spec, NAME, CARRIES)
    return spec.replace(mixer=mixer.replace(scores=scores, values=GatedMeanSpec(projection=True)))


def _set_scores(
    model: Transformer, result: Transformer, calibration: Calibration, block: int, weights_H: Tensor, rank: int
) -> None:
    forms_HDD, offsets_HD = logit_forms(attention(model.block(block)))
    form_DD, offset_D = torch.einsum("h,hde->de", weights_H, forms_HDD), weights_H @ offsets_HD
    half_DD, inverse_DD = roots(input_moments(model, calibration, [block], "mixer.in")[block].second_II)
    u, s, vh = torch.linalg.svd(half_DD @ form_DD @ half_DD)
    root_R = s[:rank].sqrt()
    scores = attention(result.block(block)).scores
    assert isinstance(scores, ProjectedScores)
    bias_R = (vh[:rank] @ half_DD @ offset_D) / root_R.clamp(min=1e-12)
    scores.query.set((inverse_DD @ (u[:, :rank] * root_R)).T.float(), bias_R.float())
    scores.key.set((inverse_DD @ (vh[:rank].T * root_R)).T.float())
