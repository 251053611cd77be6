"""align-layers: heads and hidden units of all layers in the order and basis of one of them.

D hidden size, H heads, K size of a head's queries or values, F intermediate size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import NonNegativeInt
from torch import Tensor

from compress.model.block import BlockSpec
from compress.model.ffn import Ffn
from compress.model.mixers.softmax_attention import SoftmaxAttention, SoftmaxAttentionSpec
from compress.model.projection import Projection
from compress.model.scores.projected import ProjectedScores, ProjectedScoresSpec
from compress.model.transformer import Transformer
from compress.model.values.projected import ProjectedValues, ProjectedValuesSpec
from compress.rewrites.calibration import Calibration, input_moments
from compress.rewrites.rewrite import Options, rewrite
from compress.rewrites.surgery import attention, logit_forms, single_loop, specials, value_output_HDD
from targets.errors import InputError

NAME = "align-layers"


class AlignLayers(Options):
    """`reference`: the layer that the others are aligned to; the middle one if not given."""

    reference: NonNegativeInt | None = None


@rewrite(NAME, AlignLayers, exact=True)
def align_layers(model: Transformer, options: AlignLayers, calibration: Calibration) -> Transformer:
    """Bring heads and hidden units of every layer as close to those of a reference layer as order and basis allow.

    Heads and hidden units are permuted (Hungarian method on inner products whitened by the inputs' second moments:
    of [M_h, Wv_h Wo_h], and of [W1 column, W2 row]); then each head's queries with its keys, and its values with its
    output rows, are turned by the orthogonal matrix that comes closest (Procrustes). Exact: a head's logits and
    outputs do not see that basis. Layers then differ only where they compute something else, which is what tying
    needs. Queries are not turned under rotary positions; heads that share keys (GQA), replaced attention and layers
    built otherwise than the reference stay as they are. Refused for looped blocks. Source: Singh and Jaggi 2020
    (arXiv 1910.05653) for the matching; the turn is derived here.
    """
    count = len(model.structure.blocks)
    reference = (count - 1) // 2 if options.reference is None else options.reference
    if reference >= count:
        raise InputError(f"{NAME}: there is no layer {reference}; the model has {count} (0 to {count - 1})")
    for spec in model.structure.blocks:
        single_loop(spec, NAME)
    result = model.copy()
    specs = model.structure.blocks
    of_heads = [block for block in range(count) if _same_heads(specs[block], specs[reference])]
    of_units = [block for block in range(count) if _same_units(result, block, reference)]
    second = {block: one.second_II for block, one in input_moments(model, calibration, of_heads, "mixer.in").items()}
    for block in of_heads:
        _align_heads(attention(result.block(block)), attention(model.block(reference)), second[block])
    second = {block: one.second_II for block, one in input_moments(model, calibration, of_units, "ffn.in").items()}
    for block in of_units:
        _align_units(_ffn(result, block), _ffn(model, reference), second[block])
    return result


def _same_heads(spec: BlockSpec, reference: BlockSpec) -> bool:
    """Whether both have the same plain attention with keys and values for each head."""
    mixer = spec.mixer
    if mixer != reference.mixer or not isinstance(mixer, SoftmaxAttentionSpec):
        return False
    scores, values = mixer.scores, mixer.values
    if set(specials(mixer)) - {"window", "cap"}:
        return False
    if not isinstance(scores, ProjectedScoresSpec) or not isinstance(values, ProjectedValuesSpec):
        return False
    return scores.num_heads == scores.num_kv_heads == values.num_kv_heads


def _align_heads(module: SoftmaxAttention, reference: SoftmaxAttention, second_DD: Tensor) -> None:
    """Permute the heads of `module`, then turn each, in place."""
    scores, values = module.scores, module.values
    theirs, their_values = reference.scores, reference.values
    assert isinstance(scores, ProjectedScores) and isinstance(theirs, ProjectedScores)
    assert isinstance(values, ProjectedValues) and isinstance(their_values, ProjectedValues)
    heads = scores.spec.num_heads
    likeness_HH = torch.zeros(heads, heads, dtype=torch.float64)
    for mine_HDD, wanted_HDD, right_DD in (
        (logit_forms(module)[0], logit_forms(reference)[0], second_DD),
        (value_output_HDD(module), value_output_HDD(reference), torch.eye(len(second_DD)).to(second_DD)),
    ):
        likeness_HH += _likeness(mine_HDD, wanted_HDD, second_DD, right_DD)
    order_H = _assigned(likeness_HH)
    for projection in (scores.query, scores.key, values.value):
        _take_rows(projection, _rows(order_H, projection.weight.shape[0] // heads))
    _take_columns(values.output, _rows(order_H, values.output.weight.shape[1] // heads))
    if scores.spec.rope is None:
        logits = [(scores.query.weight, theirs.query.weight), (scores.key.weight, theirs.key.weight)]
        turn_HKK = _turns(logits, [second_DD, second_DD], heads)
        for projection in (scores.query, scores.key):
            _turn_rows(projection, turn_HKK)
    eye_DD = torch.eye(values.output.weight.shape[0]).to(second_DD)
    pairs = [(values.value.weight, their_values.value.weight), (values.output.weight.T, their_values.output.weight.T)]
    turn_HKK = _turns(pairs, [second_DD, eye_DD], heads)
    _turn_rows(values.value, turn_HKK)
    output_DHK = values.output.weight.double().reshape(values.output.weight.shape[0], heads, -1)
    values.output.weight.copy_(torch.einsum("hjk,dhk->dhj", turn_HKK, output_DHK).flatten(1))


def _likeness(mine_HDD: Tensor, theirs_HDD: Tensor, left_DD: Tensor, right_DD: Tensor) -> Tensor:
    """Inner products <A_h, B_g> under the two moments (H,H), over the mean squared length of B."""
    weighted_HDD = left_DD @ theirs_HDD @ right_DD
    scale = torch.einsum("hde,hde->", weighted_HDD, theirs_HDD) / len(theirs_HDD)
    return torch.einsum("hde,gde->hg", mine_HDD, weighted_HDD).cpu() / float(scale)


def _turns(pairs: Sequence[tuple[Tensor, Tensor]], moments: Sequence[Tensor], heads: int) -> Tensor:
    """Per head the orthogonal G (H,K,K) that brings G times each first matrix (H*K, D) closest to the second."""
    cross_HKK: Tensor | float = 0.0
    for (mine, theirs), moment_DD in zip(pairs, moments, strict=True):
        mine_HKD, theirs_HKD = (one.double().reshape(heads, -1, one.shape[1]) for one in (mine, theirs))
        weighted_HKD = theirs_HKD @ moment_DD
        scale = torch.einsum("hkd,hkd->h", weighted_HKD, theirs_HKD).clamp(min=1e-30)
        cross_HKK = cross_HKK + weighted_HKD @ mine_HKD.transpose(1, 2) / scale[:, None, None]
    assert isinstance(cross_HKK, Tensor)
    u, _, vh = torch.linalg.svd(cross_HKK)
    return u @ vh


def _same_units(model: Transformer, block: int, reference: int) -> bool:
    """Whether both have the same feed-forward whose hidden units can be permuted: maps up, one map `down`, and no norm
    between, whose gains would have to follow."""
    spec, ffn = model.structure.blocks[block].ffn, model.block(block).ffn
    if ffn is None or spec != model.structure.blocks[reference].ffn:
        return False
    if getattr(ffn, "norm", None) is not None:
        return False
    return isinstance(getattr(ffn, "down", None), Projection) and ffn.down not in ffn.readers()


def _ffn(model: Transformer, block: int) -> Ffn:
    ffn = model.block(block).ffn
    assert ffn is not None
    return ffn


def _align_units(ffn: Ffn, reference: Ffn, second_DD: Tensor) -> None:
    """Permute the hidden units of `ffn` in place."""
    down, wanted_down = ffn.down, reference.down
    assert isinstance(down, Projection) and isinstance(wanted_down, Projection)
    pairs = [(mine.weight, theirs.weight) for mine, theirs in zip(ffn.readers(), reference.readers(), strict=True)]
    likeness_FF = _unit_likeness(wanted_down.weight.T, down.weight.T, None)
    for mine_FD, theirs_FD in pairs:
        likeness_FF += _unit_likeness(theirs_FD, mine_FD, second_DD)
    order_F = _assigned(likeness_FF.T)
    for projection in ffn.readers():
        _take_rows(projection, order_F)
    _take_columns(down, order_F)


def _unit_likeness(theirs_FD: Tensor, mine_FD: Tensor, moment_DD: Tensor | None) -> Tensor:
    """Inner products of hidden units (F,F) over the mean squared length of theirs."""
    weighted_FD = theirs_FD.double() if moment_DD is None else theirs_FD.double() @ moment_DD
    scale = (weighted_FD * theirs_FD.double()).sum() / len(theirs_FD)
    return weighted_FD @ mine_FD.double().T / scale


def _assigned(likeness: Tensor) -> Tensor:
    """For each of theirs (column) the index of mine (row) that it is matched with, total likeness being largest."""
    from scipy.optimize import linear_sum_assignment  # half a second of every start

    rows, columns = linear_sum_assignment(likeness.cpu().numpy(), maximize=True)
    order = torch.empty(len(rows), dtype=torch.long)
    order[torch.from_numpy(columns)] = torch.from_numpy(rows)
    return order


def _rows(order_H: Tensor, size: int) -> Tensor:
    """Indices of all features of heads of this size in the given order of heads."""
    return (order_H[:, None] * size + torch.arange(size)).flatten()


def _take_rows(projection: Projection, order: Tensor) -> None:
    order = order.to(projection.weight.device)
    projection.weight.copy_(projection.weight[order])
    for bias in projection.bias:
        bias.copy_(bias[order])


def _take_columns(projection: Projection, order: Tensor) -> None:
    projection.weight.copy_(projection.weight[:, order.to(projection.weight.device)])


def _turn_rows(projection: Projection, turn_HKK: Tensor) -> None:
    heads = len(turn_HKK)
    weight_HKD = projection.weight.double().reshape(heads, -1, projection.weight.shape[1])
    projection.weight.copy_((turn_HKK @ weight_HKD).flatten(0, 1))
    for bias in projection.bias:
        bias.copy_((turn_HKK @ bias.double().reshape(heads, -1, 1)).flatten())
