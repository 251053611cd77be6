"""linear-cross: what a decoder reads of its source becomes sums of one size."""

from __future__ import annotations

import torch

from compress.model.block import BlockSpec
from compress.model.crosses.linear import LinearCross, LinearCrossSpec
from compress.model.crosses.softmax import SoftmaxCrossSpec
from compress.model.transformer import Transformer
from compress.rewrites.calibration import Calibration
from compress.rewrites.linear_attention import LinearAttentionOptions
from compress.rewrites.mixer_swap import loop_of, mixer_samples, swap_halves
from compress.rewrites.rewrite import rewrite
from targets.errors import InputError

NAME = "linear-cross"


class LinearCrossOptions(LinearAttentionOptions):
    """See `LinearAttentionOptions`."""


@rewrite(NAME, LinearCrossOptions)
def linear_cross(model: Transformer, options: LinearCrossOptions, calibration: Calibration) -> Transformer:
    """Replace a decoder's softmax over its source by linear attention: the encoder hands over sums of one size.

    A step then costs the same for every length of the source, and the memory of a source is H F (V+1) numbers a layer
    instead of keys and values of all its tokens. Projections keep their weights; phi starts at what its file says
    (`compress/model/features`). Not exact. "auto:K" takes the layers whose output comes closest to the original's at
    the start. Refused for a stack without cross-attention. Source: Kasai et al. 2021 (arXiv 2103.13076), T2R.
    """

    def change(spec: BlockSpec) -> BlockSpec:
        cross = _softmax(spec)
        return spec.replace(
            cross=LinearCrossSpec(
                scores=cross.scores,
                values=cross.values,
                feature=options.feature_map(),
                balance=cross.scores.scale**-0.5,
                eps=options.eps,
            )
        )

    def start(old: Transformer, new: Transformer, blocks: list[int]) -> None:
        crosses: dict[int, LinearCross] = {}
        for block in blocks:
            cross = new.block(block).cross
            assert isinstance(cross, LinearCross)
            cross.feature.initialize(torch.Generator().manual_seed(options.seed + block))
            if cross.feature.bounded:
                crosses[block] = cross
        if not crosses:
            return
        for _, samples in mixer_samples(old, calibration, list(crosses), "cross"):
            for block, cross in crosses.items():
                memory = samples[block].context.memory
                assert memory is not None
                cross.feature.see_keys(cross.keys(memory, loop_of(old, block)))

    return swap_halves(NAME, model, options.layers, calibration, _softmax, change, start, "cross")


def _softmax(spec: BlockSpec) -> SoftmaxCrossSpec:
    """The block's softmax attention to a source. Raises InputError where it has none."""
    if spec.cross is None:
        raise InputError(f"{NAME} is refused: it works on a decoder's cross-attention, and a chosen layer has none")
    if not isinstance(spec.cross, SoftmaxCrossSpec):
        raise InputError(f"{NAME} is refused: a chosen layer's cross-attention is {spec.cross.kind!r} already")
    return spec.cross
