"""prune-heads: the least useful heads go, the rest is fitted again. H heads, V value size."""

from __future__ import annotations

import torch
from pydantic import PositiveInt
from torch import Tensor

from compress.model.attention import attend, attention_mask, join_heads, split_heads
from compress.model.block import BlockSpec
from compress.model.mixer import Context
from compress.model.scores.projected import ProjectedScores, ProjectedScoresSpec
from compress.model.transformer import Transformer
from compress.model.values.projected import ProjectedValues, ProjectedValuesSpec
from compress.rewrites.calibration import AffineFit, Calibration, Moments, target_moments
from compress.rewrites.layers import Layers, resolve
from compress.rewrites.rewrite import Options, rewrite
from compress.rewrites.surgery import attention, attention_spec, single_loop, with_blocks
from targets.errors import InputError

NAME = "prune-heads"


class PruneHeads(Options):
    """`keep`: heads that stay in each chosen layer."""

    keep: PositiveInt
    layers: Layers = "all"


@rewrite(NAME, PruneHeads)
def prune_heads(model: Transformer, options: PruneHeads, calibration: Calibration) -> Transformer:
    """Keep the most useful heads of a layer and fit its output projection again.

    Heads are removed one at a time, each time the one without which the least-squares fit of the original's attention
    output on the remaining heads' outputs loses least; Wo and bo are that fit. Not exact. "auto:K" takes the layers
    whose output stays best explained. Refused where query heads share keys (GQA) and for looped blocks. Source: the
    greedy form of Michel et al. 2019 (arXiv 1905.10650) with a refit.
    """

    def losses(blocks: list[int]) -> dict[int, float]:
        moments = _head_moments(model, calibration, blocks)
        return {block: _chosen(model, block, moments[block], options.keep)[1].fvu for block in blocks}

    blocks = resolve(options.layers, model, lambda spec: _check(spec, options.keep), losses)
    for block in blocks:  # one after the other, on inputs that the earlier ones changed
        kept, fit = _chosen(model, block, _head_moments(model, calibration, [block])[block], options.keep)
        model = _pruned(model, block, kept, fit)
        calibration.note(f"{NAME}: layer {block} keeps heads {kept}, leaves {fit.fvu:.1%} of its output unexplained")
    return model


def _check(spec: BlockSpec, keep: int) -> None:
    mixer = attention_spec(spec, NAME)
    single_loop(spec, NAME)
    scores, values = mixer.scores, mixer.values
    if not isinstance(scores, ProjectedScoresSpec) or not isinstance(values, ProjectedValuesSpec):
        raise InputError(f"{NAME} is refused: it works on projected scores and values; prune before other rewrites")
    if scores.num_kv_heads != scores.num_heads or values.num_kv_heads != scores.num_heads:
        raise InputError(f"{NAME} is refused: query heads share keys and values here (GQA)")
    if keep > scores.num_heads:
        raise InputError(f"{NAME}: keep {keep} is above the {scores.num_heads} heads of a layer")


def _head_moments(model: Transformer, calibration: Calibration, blocks: list[int]) -> dict[int, Moments]:
    """Moments of (all heads' outputs side by side (H*V), the original's attention output)."""

    def outputs(block: int, x_BND: Tensor, context: Context) -> Tensor:
        mixer = attention(model.block(block))
        assert isinstance(mixer.values, ProjectedValues)
        q_BHNK, k_BGNK = mixer.scores(x_BND, 0, context)
        v_BHNV = split_heads(mixer.values.value(x_BND, 0), mixer.values.num_kv_heads)
        mask = attention_mask(context, x_BND.shape[1], mixer.causal, x_BND.device)
        return join_heads(attend(q_BHNK, k_BGNK, v_BHNV, mask))

    found = target_moments(model, calibration, blocks, "mixer", outputs)
    return {block: fitting.whole for block, fitting in found.items()}


def _chosen(model: Transformer, block: int, moments: Moments, keep: int) -> tuple[list[int], AffineFit]:
    """The heads that stay and the fit of the output on them."""
    heads = list(range(attention_spec(model.structure.blocks[block], NAME).scores.num_heads))
    size = moments.mean_x_I.shape[0] // len(heads)
    while len(heads) > keep:
        without = {
            head: moments.restricted(_columns([other for other in heads if other != head], size)) for head in heads
        }
        heads.remove(min(heads, key=lambda head: without[head].fit().fvu))
    return heads, moments.restricted(_columns(heads, size)).fit()


def _columns(heads: list[int], size: int) -> Tensor:
    """Indices of these heads' outputs among all heads' outputs side by side."""
    return torch.cat([torch.arange(head * size, (head + 1) * size) for head in heads])


def _pruned(model: Transformer, block: int, heads: list[int], fit: AffineFit) -> Transformer:
    def fewer(spec: BlockSpec) -> BlockSpec:
        mixer = attention_spec(spec, NAME)
        scores = mixer.scores.replace(num_heads=len(heads), num_kv_heads=len(heads))
        values = mixer.values.replace(num_kv_heads=len(heads), output_bias=True)
        return spec.replace(mixer=mixer.replace(scores=scores, values=values))

    old, result = attention(model.block(block)), with_blocks(model, fewer, [block])
    new = attention(result.block(block))
    assert isinstance(old.scores, ProjectedScores) and isinstance(new.scores, ProjectedScores)
    assert isinstance(old.values, ProjectedValues) and isinstance(new.values, ProjectedValues)
    count = old.scores.spec.num_heads
    for source, target in (
        (old.scores.query, new.scores.query),
        (old.scores.key, new.scores.key),
        (old.values.value, new.values.value),
    ):
        rows = source.weight.reshape(count, -1, source.weight.shape[1])[heads].flatten(0, 1)
        bias = source.bias[0].reshape(count, -1)[heads].flatten() if len(source.bias) else None
        target.set(rows, bias)
    new.values.output.set(fit.weight_IO.T.float(), fit.bias_O.float())
    return result
