"""prune-heads: the least useful heads go, the rest is fitted again. H heads, G key/value heads, V value size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from compress.model.block import BlockSpec
from compress.model.scores.projected import ProjectedScores, ProjectedScoresSpec
from compress.model.structure import Structure
from compress.model.transformer import Transformer
from compress.model.values.projected import ProjectedValues, ProjectedValuesSpec
from compress.rewrites.calibration import AffineFit, Calibration, Moments
from compress.rewrites.layers import Layers, resolve
from compress.rewrites.rewrite import Options, rewrite
from compress.rewrites.search_range import SearchRange, counts, head_count
from compress.rewrites.surgery import Special, attention, attention_spec, single_loop, with_blocks
from compress.rewrites.value_fit import head_moments
from targets.errors import InputError

NAME = "prune-heads"
#: What attention may have that this carries over.
CARRIES: frozenset[Special] = frozenset({"window", "cap", "norm"})


class PruneHeads(Options):
    """`keep`: heads that stay in each chosen layer; a multiple of those that share keys and values."""

    keep: PositiveInt = Field(examples=[1])
    layers: Layers = "all"


def _heads(structure: Structure) -> Iterator[dict[str, Any]]:
    yield from ({"keep": count} for count in counts(head_count(structure) or 1, 0.5, 0.75, 0.25))


@rewrite(NAME, PruneHeads, search=SearchRange(("mixer",), _heads, early=True))
def prune_heads(model: Transformer, options: PruneHeads, calibration: Calibration) -> Transformer:
    """Keep the most useful heads of a layer and fit its output projection again.

    Heads are removed one at a time, each time the one without which the least-squares fit of the original's attention
    output on the remaining heads' outputs loses least; Wo and bo are that fit. Heads that share keys and values (GQA)
    go together, so that a cache shrinks too. Not exact. "auto:K" takes the layers whose output stays best explained.
    Refused for looped blocks. Source: the greedy form of Michel et al. 2019 (arXiv 1905.10650) with a refit.
    """

    def losses(blocks: list[int]) -> dict[int, float]:
        moments = head_moments(model, calibration, blocks)
        return {block: _chosen(model, block, moments[block], options.keep)[1].fvu for block in blocks}

    blocks = resolve(options.layers, model, lambda spec: _check(spec, options.keep), losses)
    for block in blocks:  # one after the other, on inputs that the earlier ones changed
        kept, fit = _chosen(model, block, head_moments(model, calibration, [block])[block], options.keep)
        model = _pruned(model, block, kept, fit)
        scores = attention_spec(model.structure.blocks[block], NAME, CARRIES).scores
        heads = _parts(kept, scores.num_heads // scores.key_heads).tolist()
        calibration.note(f"{NAME}: layer {block} keeps heads {heads}, leaves {fit.fvu:.1%} of its output unexplained")
    return model


def _check(spec: BlockSpec, keep: int) -> None:
    mixer = attention_spec(spec, NAME, CARRIES)
    single_loop(spec, NAME)
    scores, values = mixer.scores, mixer.values
    if not isinstance(scores, ProjectedScoresSpec) or not isinstance(values, ProjectedValuesSpec):
        raise InputError(f"{NAME} is refused: it works on projected scores and values; prune before other rewrites")
    if values.num_kv_heads != scores.num_kv_heads:
        raise InputError(f"{NAME} is refused: keys and values are shared by other heads; prune before other rewrites")
    if keep > scores.num_heads:
        raise InputError(f"{NAME}: keep {keep} is above the {scores.num_heads} heads of a layer")
    sharing = scores.num_heads // scores.num_kv_heads
    if keep % sharing:
        raise InputError(f"{NAME}: {sharing} heads share keys and values and go together; keep a multiple, not {keep}")


def _chosen(model: Transformer, block: int, moments: Moments, keep: int) -> tuple[list[int], AffineFit]:
    """The key/value heads that stay, so that `keep` heads do, and the fit of the output on these."""
    scores = attention_spec(model.structure.blocks[block], NAME, CARRIES).scores
    groups = list(range(scores.key_heads))
    size = moments.mean_x_I.shape[0] // len(groups)
    while len(groups) * scores.num_heads > keep * scores.key_heads:
        without = {
            group: moments.restricted(_parts([other for other in groups if other != group], size)) for group in groups
        }
        groups.remove(min(groups, key=lambda group: without[group].fit().fvu))
    return groups, moments.restricted(_parts(groups, size)).fit()


def _parts(chosen: list[int], size: int) -> Tensor:
    """Indices of these parts of `size` among all parts side by side."""
    return torch.cat([torch.arange(part * size, (part + 1) * size) for part in chosen])


def _pruned(model: Transformer, block: int, groups: list[int], fit: AffineFit) -> Transformer:
    def fewer(spec: BlockSpec) -> BlockSpec:
        mixer = attention_spec(spec, NAME, CARRIES)
        heads = mixer.scores.num_heads // mixer.scores.key_heads * len(groups)
        scores = mixer.scores.replace(num_heads=heads, num_kv_heads=len(groups))
        values = mixer.values.replace(num_kv_heads=len(groups), output_bias=True)
        return spec.replace(mixer=mixer.replace(scores=scores, values=values))

    old, result = attention(model.block(block)), with_blocks(model, fewer, [block])
    new = attention(result.block(block))
    assert isinstance(old.scores, ProjectedScores) and isinstance(new.scores, ProjectedScores)
    assert isinstance(old.values, ProjectedValues) and isinstance(new.values, ProjectedValues)
    count = old.scores.spec.num_kv_heads
    for source, target in (
        (old.scores.query, new.scores.query),
        (old.scores.key, new.scores.key),
        (old.values.value, new.values.value),
    ):
        rows = source.weight.reshape(count, -1, source.weight.shape[1])[groups].flatten(0, 1)
        bias = source.bias[0].reshape(count, -1)[groups].flatten() if len(source.bias) else None
        target.set(rows, bias)
    new.values.output.set(fit.weight_IO.T.float(), fit.bias_O.float())
    return result
