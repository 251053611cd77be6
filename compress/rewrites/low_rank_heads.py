"""low-rank-heads: heads of fewer dimensions. D hidden size, H heads, G value heads, R rank."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from compress.model.block import BlockSpec
from compress.model.mixers.softmax_attention import SoftmaxAttention
from compress.model.scores.projected import ProjectedScores, ProjectedScoresSpec
from compress.model.structure import Structure
from compress.model.transformer import Transformer
from compress.model.values.projected import ProjectedValues
from compress.rewrites.calibration import Calibration, Moments, input_moments, roots, truncated
from compress.rewrites.layers import Layers, resolve
from compress.rewrites.rewrite import Options, rewrite
from compress.rewrites.search_range import SearchRange, counts, head_size
from compress.rewrites.surgery import (
    EVERY,
    Special,
    attention,
    attention_spec,
    logit_forms,
    refuse_positions,
    single_loop,
    value_output_HDD,
    values_spec,
    with_blocks,
)
from targets.errors import InputError

NAME = "low-rank-heads"
#: What attention may have that lower ranks of queries and keys carry over; those of values carry everything.
CARRIES: frozenset[Special] = frozenset({"window", "bias"})


class LowRankHeads(Options):
    """`rank`: size of queries and keys per head; `value_rank`: size of values per head. What is not given stays."""

    rank: PositiveInt | None = Field(default=None, examples=[2])
    value_rank: PositiveInt | None = None
    layers: Layers = "all"

    @model_validator(mode="after")
    def _one_is_given(self) -> LowRankHeads:
        if self.rank is None and self.value_rank is None:
            raise ValueError("give rank, value_rank or both")
        return self


def _ranks(structure: Structure) -> Iterator[dict[str, Any]]:
    """Both sizes of a head alike, then what is carried over alone, which rotary positions allow."""
    sizes = counts(head_size(structure) or 1, 0.5, 0.25, 0.75, 0.125)
    yield from ({"rank": size, "value_rank": size} for size in sizes)
    yield from ({"value_rank": size} for size in sizes[:2])


@rewrite(NAME, LowRankHeads, search=SearchRange(("mixer",), _ranks, early=True))
def low_rank_heads(model: Transformer, options: LowRankHeads, calibration: Calibration) -> Transformer:
    """Truncate each head's query-key form, its value-output map, or both, to a lower rank.

    Minimizes the mean squared error of the logits over independent pairs of tokens, up to constants of a row, which
    softmax removes: with the query's input extended by a one (that carries the bias), second moment S, and the key's
    covariance C, the rank-R truncated SVD of S^1/2 [M_h; c_h] C^1/2 (Eckart-Young). Values likewise: the truncated
    SVD of E[x x^T]^1/2 Wv_g [Wo_h ...] over the heads h that share the values g, which share the smaller ones too (so
    a cache shrinks with them). Not exact below the present sizes. `rank` is refused under rotary positions,
    which leave no fixed query-key form; both for looped blocks and for ranks above the present sizes. "auto:K" takes
    the layers that lose the least logit variance (of the values' output without `rank`).
    """

    def losses(blocks: list[int]) -> dict[int, float]:
        moments = input_moments(model, calibration, blocks, "mixer.in")
        return {block: _lost(model, block, moments[block], options) for block in blocks}

    blocks = resolve(options.layers, model, lambda spec: _check(spec, options, model.structure.hidden_size), losses)
    moments = input_moments(model, calibration, blocks, "mixer.in")
    result = with_blocks(model, lambda spec: _truncated(spec, options), blocks)
    for block in blocks:
        if options.rank is not None:
            _set_scores(model, result, block, moments[block], options.rank)
        if options.value_rank is not None:
            _set_values(model, result, block, moments[block], options.value_rank)
        what = "values" if options.rank is None else "logit variance"
        calibration.note(f"{NAME}: layer {block} loses {_lost(model, block, moments[block], options):.2%} of {what}")
    return result


def _check(spec: BlockSpec, options: LowRankHeads, hidden_size: int) -> None:
    mixer = attention_spec(spec, NAME, EVERY if options.rank is None else CARRIES)
    single_loop(spec, NAME)
    if options.rank is not None:
        refuse_positions(mixer, NAME)
        scores = mixer.scores
        if not isinstance(scores, ProjectedScoresSpec):
            raise InputError(f"{NAME} is refused: it works on projected scores, and a chosen layer has {scores.kind!r}")
        if options.rank > min(scores.head_dim, hidden_size):
            raise InputError(f"{NAME} is refused: rank {options.rank} is above a head's size ({scores.head_dim})")
    if options.value_rank is None:
        return
    value_dim = values_spec(spec, NAME, EVERY).head_dim
    if options.value_rank > min(value_dim, hidden_size):
        raise InputError(
            f"{NAME} is refused: value_rank {options.value_rank} is above a head's value size ({value_dim})"
        )


def _truncated(spec: BlockSpec, options: LowRankHeads) -> BlockSpec:
    mixer = attention_spec(spec, NAME, EVERY)
    heads, scores, values = mixer.scores.num_heads, mixer.scores, mixer.values
    if options.rank is not None:
        scores = ProjectedScoresSpec(
            num_heads=heads, num_kv_heads=heads, head_dim=options.rank, scale=1.0, query_bias=True, key_bias=False
        )
    if options.value_rank is not None:
        values = values.replace(head_dim=options.value_rank, value_bias=False, output_bias=True)
    return spec.replace(mixer=mixer.replace(scores=scores, values=values))


def _whitened(model: Transformer, block: int, moments: Moments) -> tuple[Tensor, Tensor, Tensor]:
    """S^1/2 [M; c] C^1/2 (H,D+1,D) with S^-1/2 (D+1,D+1) and C^-1/2 (D,D)."""
    forms_HDD, offsets_HD = logit_forms(attention(model.block(block)))
    mean_D = moments.mean_x_I
    extended = torch.cat(
        [
            torch.cat([moments.second_II, mean_D[:, None]], dim=1),
            torch.cat([mean_D, mean_D.new_ones(1)])[None],
        ]
    )
    query_half, query_inverse = roots(extended)
    key_half, key_inverse = roots(moments.covariance_II)
    joined_HED = torch.cat([forms_HDD, offsets_HD[:, None]], dim=1)
    return query_half @ joined_HED @ key_half, query_inverse, key_inverse


def _lost(model: Transformer, block: int, moments: Moments, options: LowRankHeads) -> float:
    """Fraction of the logits' variance beyond the rank, over all heads; of the values' energy where they alone go."""
    if options.rank is None:
        whitened = roots(moments.second_II)[0] @ _value_output_GDE(attention(model.block(block)))
    else:
        whitened = _whitened(model, block, moments)[0]
    energy_HR = torch.linalg.svdvals(whitened).square()
    return float(energy_HR[:, options.rank or options.value_rank :].sum() / energy_HR.sum())


def _set_scores(model: Transformer, result: Transformer, block: int, moments: Moments, rank: int) -> None:
    whitened_HED, query_inverse, key_inverse = _whitened(model, block, moments)
    u, s, vh = torch.linalg.svd(whitened_HED, full_matrices=False)
    root_HR = s[:, :rank].sqrt()
    query_HER = query_inverse @ (u[:, :, :rank] * root_HR[:, None])
    key_HDR = key_inverse @ (vh[:, :rank].transpose(1, 2) * root_HR[:, None])
    scores = attention(result.block(block)).scores
    assert isinstance(scores, ProjectedScores)
    rows = query_HER[:, :-1].transpose(1, 2).flatten(0, 1)
    scores.query.set(rows.float(), query_HER[:, -1].flatten().float())
    scores.key.set(key_HDR.transpose(1, 2).flatten(0, 1).float())


def _set_values(model: Transformer, result: Transformer, block: int, moments: Moments, rank: int) -> None:
    old, new = attention(model.block(block)).values, attention(result.block(block)).values
    assert isinstance(old, ProjectedValues) and isinstance(new, ProjectedValues)
    value_GDR, output_GRE = truncated(moments.second_II, _value_output_GDE(attention(model.block(block))), rank)
    weight_DV = old.output.weight.double()
    output_HRD = output_GRE.reshape(len(output_GRE), rank, -1, len(weight_DV)).transpose(1, 2).flatten(0, 1)
    heads = weight_DV.shape[1] // (old.value.weight.shape[0] // old.num_kv_heads)
    bias_GV = old.value.bias_or_zero().double().reshape(old.num_kv_heads, -1)
    folded_D = weight_DV @ bias_GV.repeat_interleave(heads // old.num_kv_heads, dim=0).flatten()
    new.value.set(value_GDR.transpose(1, 2).flatten(0, 1).float())
    new.output.set(output_HRD.flatten(0, 1).T.float(), (old.output.bias_or_zero().double() + folded_D).float())


def _value_output_GDE(module: SoftmaxAttention) -> Tensor:
    """Wv_g Wo_h of the heads that share values, side by side: (G,D,E) with E = H/G * D."""
    assert isinstance(module.values, ProjectedValues)
    maps_HDD = value_output_HDD(module)
    width = maps_HDD.shape[1]
    return maps_HDD.reshape(module.values.num_kv_heads, -1, width, width).transpose(1, 2).flatten(2)
