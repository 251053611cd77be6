"""linformer: keys and values are pooled to a fixed number. L longest length, P pools."""

from __future__ import annotations

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from compress.model.block import BlockSpec
from compress.model.embeds.patch import PatchEmbedSpec
from compress.model.embeds.token import TokenEmbedSpec
from compress.model.mixer import MixerSpec
from compress.model.mixers.linformer import Linformer, LinformerSpec
from compress.model.mixers.softmax_attention import SoftmaxAttentionSpec
from compress.model.structure import Structure
from compress.model.transformer import Transformer
from compress.rewrites.calibration import Calibration
from compress.rewrites.layers import Layers
from compress.rewrites.mixer_swap import CARRIES, swap_mixers
from compress.rewrites.rewrite import Options, rewrite
from compress.rewrites.search_range import SearchRange, each
from compress.rewrites.surgery import attention_spec, values_spec
from targets.errors import InputError

NAME = "linformer"


class LinformerOptions(Options):
    """`pools`: how many pools the tokens are brought to, besides those that stand for themselves (the class token).
    `length`: the longest sequence that a text model will take, that of the original if not given."""

    pools: PositiveInt = Field(examples=[2])
    length: PositiveInt | None = None
    layers: Layers = "all"


@rewrite(NAME, LinformerOptions, search=SearchRange(("mixer",), each(pools=(16, 4))))
def linformer(model: Transformer, options: LinformerOptions, calibration: Calibration) -> Transformer:
    """Replace attention over all tokens by attention over pools of them: cost linear in the length, which is limited.

    E and F start as the means of neighbouring tokens, in the two dimensions of an image's patches or along a text,
    and each logit is raised by the log of its pool's size, which is exact where the keys of a pool are equal. The
    class token is a pool of its own. Not exact. "auto:K" takes the layers whose output comes closest to the original's
    at the start. Refused for causal layers (a pool looks ahead), for values that are not projected, and where the
    patches do not divide into that number of pools. Source: Wang et al. 2020 (arXiv 2006.04768).
    """
    pool_L = _pools(model.structure, options)
    member_LP = torch.nn.functional.one_hot(pool_L).float()
    sizes_P = member_LP.sum(dim=0)

    def swap(mixer: SoftmaxAttentionSpec) -> MixerSpec:
        return MixerSpec.parse(
            {
                "kind": LinformerSpec.model_fields["kind"].default,
                "scores": mixer.scores,
                "values": mixer.values,
                "length": member_LP.shape[0],
                "pools": member_LP.shape[1],
            }
        )

    def start(model: Transformer, result: Transformer, blocks: list[int]) -> None:
        for block in blocks:
            mixer = result.block(block).mixer
            assert isinstance(mixer, Linformer)
            mixer.key_LP.copy_(member_LP / sizes_P)
            mixer.value_LP.copy_(member_LP / sizes_P)
            mixer.offset_P.copy_(sizes_P.log())

    return swap_mixers(NAME, model, options.layers, calibration, _check, swap, start)


def _check(spec: BlockSpec) -> None:
    values_spec(spec, NAME, CARRIES)
    if attention_spec(spec, NAME, CARRIES).causal:
        raise InputError(f"{NAME} is refused for a causal layer: its pools mix tokens with those that follow them")


def _pools(structure: Structure, options: LinformerOptions) -> Tensor:
    """Which pool each token goes to (L,)."""
    embed = structure.embed
    if any(block.reducer is not None and block.leading is None for block in structure.blocks):
        raise InputError(f"{NAME} is refused: tokens are pooled in this model, so its layers see different numbers")
    if isinstance(embed, PatchEmbedSpec):
        if options.length is not None:
            raise InputError(f"{NAME}: length is for text; these images always have {embed.tokens} tokens")
        return _grid_pools(embed, options.pools)
    assert isinstance(embed, TokenEmbedSpec)
    longest = int(structure.preprocessing.get("max_length", 0))
    length = options.length or longest or embed.max_positions
    if length < longest:
        raise InputError(f"{NAME} is refused: texts may have {longest} tokens, more than length = {length}; give more")
    if not length:
        raise InputError(f"{NAME}: give length: the model has no table of positions that would limit it")
    if options.pools >= length:
        raise InputError(f"{NAME} is refused: {options.pools} pools for {length} tokens would save nothing")
    rest_L = torch.arange(length - 1) * options.pools // (length - 1)
    return torch.cat([rest_L.new_zeros(1), 1 + rest_L])


def _grid_pools(embed: PatchEmbedSpec, pools: int) -> Tensor:
    height, width = embed.grid
    shapes = [(rows, pools // rows) for rows in range(1, height + 1) if pools % rows == 0 and pools // rows <= width]
    if not shapes or pools == height * width:
        raise InputError(f"{NAME} is refused: {height} x {width} patches do not divide into a grid of {pools} pools")
    rows, columns = min(shapes, key=lambda shape: abs(shape[0] * width - shape[1] * height))
    row_Y, column_X = torch.arange(height) * rows // height, torch.arange(width) * columns // width
    patch_L = (row_Y[:, None] * columns + column_X).flatten()
    return torch.cat([torch.arange(embed.prefix_tokens), embed.prefix_tokens + patch_L])
