"""drop-projection: no value and no output projection. D hidden size, H heads, R rank."""

from __future__ import annotations

import torch
from pydantic import NonNegativeInt

from compress.model.attention import ValuesSpec
from compress.model.block import BlockSpec
from compress.model.transformer import Transformer
from compress.model.values.diagonal_low_rank import DiagonalLowRank, DiagonalLowRankSpec
from compress.model.values.gated_mean import GatedMean, GatedMeanSpec
from compress.rewrites.calibration import Calibration, input_moments, truncated
from compress.rewrites.layers import Layers, resolve
from compress.rewrites.rewrite import Options, rewrite
from compress.rewrites.search_range import SearchRange, nothing_to_choose
from compress.rewrites.surgery import (
    EVERY,
    attention,
    attention_spec,
    single_loop,
    value_output_HDD,
    values_spec,
    with_blocks,
)
from compress.rewrites.value_fit import annealed, fit_gates
from targets.errors import InputError

NAME = "drop-projection"
#: What attention may have that this carries over.
CARRIES = EVERY


class DropProjection(Options):
    """`rank`: 0 leaves one gate per head and nothing else; above 0 each head keeps a diagonal and a map of that
    rank, the milder form with the same cache. `anneal`: healing fades the old values out instead of doing without
    them at once."""

    rank: NonNegativeInt = 0
    anneal: bool = False
    layers: Layers = "all"


@rewrite(NAME, DropProjection, search=SearchRange(("mixer",), nothing_to_choose))
def drop_projection(model: Transformer, options: DropProjection, calibration: Calibration) -> Transformer:
    """Drop value and output projections: y = sum_h a_h A_h x + b.

    The gates a_h and b are the least-squares fit of the original's attention output on {A_h x}. With `rank` R the
    gates are diagonals and a map P_h R_h is added: the truncated SVD of C^1/2 (Wv_h Wo_h - diag(a_h)). The most
    damaging rewrite: keep the first layers, and heal. "auto:K" takes the layers whose output the gates explain best.
    Source: Bermeitinger et al. 2024 (arXiv 2410.13732), variant c, with the gated mean of heads.
    """
    diagonal = options.rank > 0
    blocks = resolve(
        options.layers,
        model,
        lambda spec: _check(spec, options.rank, model.structure.hidden_size),
        lambda blocks: {block: fit_gates(model, calibration, block, diagonal).fvu for block in blocks},
    )
    for block in blocks:  # one after the other, on inputs that the earlier ones changed
        result = _dropped(model, options.rank, calibration, block)
        model = annealed(model, result, block) if options.anneal else result
    return model


def _check(spec: BlockSpec, rank: int, hidden_size: int) -> None:
    attention_spec(spec, NAME, CARRIES)
    single_loop(spec, NAME)
    if rank:
        values_spec(spec, NAME, CARRIES)
    if rank > hidden_size:
        raise InputError(f"{NAME} is refused: rank {rank} is above the hidden size {hidden_size}")


def _dropped(model: Transformer, rank: int, calibration: Calibration, block: int) -> Transformer:
    fit = fit_gates(model, calibration, block, diagonal=rank > 0)
    calibration.note(f"{NAME}: layer {block}: the gates alone leave {fit.fvu:.1%} of its output unexplained")
    kept: ValuesSpec = DiagonalLowRankSpec(rank=rank) if rank else GatedMeanSpec(projection=False)
    result = with_blocks(
        model, lambda spec: spec.replace(mixer=attention_spec(spec, NAME, CARRIES).replace(values=kept)), [block]
    )
    values = attention(result.block(block)).values
    if isinstance(values, GatedMean):
        values.gates[0].copy_(fit.gates.float())
        values.offset[0].copy_(fit.offset_D.float())
        return result
    assert isinstance(values, DiagonalLowRank)
    moments = input_moments(model, calibration, [block], "mixer.in")[block]
    residual_HDD = value_output_HDD(attention(model.block(block))) - torch.diag_embed(fit.gates)
    value_HDR, output_HRD = truncated(moments.second_II, residual_HDD, rank)
    # The offset of the fit stands for the mean of the residual; what the low-rank map now gives of it is taken off.
    carried_D = torch.einsum("hd,hdr,hre->e", fit.mean_HD, value_HDR, output_HRD)
    values.gates[0].copy_(fit.gates.float())
    values.value.set(value_HDR.transpose(1, 2).flatten(0, 1).float())
    values.output.set(output_HRD.flatten(0, 1).T.float(), (fit.offset_D - carried_D).float())
    return result
