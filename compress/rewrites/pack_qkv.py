"""pack-qkv: query, key and value maps side by side in one matrix."""

from __future__ import annotations

import torch

from compress.model.block import BlockSpec
from compress.model.mixers.packed_attention import PackedAttention, PackedAttentionSpec
from compress.model.mixers.softmax_attention import SoftmaxAttentionSpec
from compress.model.scores.projected import ProjectedScores, ProjectedScoresSpec
from compress.model.transformer import Transformer
from compress.model.values.projected import ProjectedValues, ProjectedValuesSpec
from compress.rewrites.calibration import Calibration
from compress.rewrites.rewrite import Options, rewrite
from compress.rewrites.surgery import attention, with_blocks

NAME = "pack-qkv"


class PackQkv(Options):
    """No options: every layer of plain attention is packed."""


@rewrite(NAME, PackQkv, exact=True, on_export=True)
def pack_qkv(model: Transformer, options: PackQkv, calibration: Calibration) -> Transformer:
    """Put query, key and value projections into one matrix, so that one product (and one int8 scale) serves them.

    Exact. Layers with other scores or values, normed queries and keys, biases or caps of their logits, or maps that
    have deltas of each loop stay as they are. Export applies it last.
    """
    blocks = [index for index, spec in enumerate(model.structure.blocks) if _packed(spec) is not None]
    result = with_blocks(model, lambda spec: spec.replace(mixer=_packed(spec)), blocks)
    for index in blocks:
        old, new = attention(model.block(index)), result.block(index).mixer
        assert isinstance(old.scores, ProjectedScores) and isinstance(old.values, ProjectedValues)
        assert isinstance(new, PackedAttention)
        parts = old.scores.query, old.scores.key, old.values.value
        new.packed.weight.copy_(torch.cat([part.weight for part in parts]))
        new.output.weight.copy_(old.values.output.weight)
        for loop, bias in enumerate(new.packed.bias):
            bias.copy_(torch.cat([part.bias_or_zero(loop) for part in parts]))
        for loop, bias in enumerate(new.output.bias):
            bias.copy_(old.values.output.bias[loop])
    return result


def _packed(spec: BlockSpec) -> PackedAttentionSpec | None:
    mixer = spec.mixer
    if not isinstance(mixer, SoftmaxAttentionSpec) or spec.per_loop.delta_rank or spec.per_loop.signal_rank:
        return None
    scores, values = mixer.scores, mixer.values
    if not isinstance(scores, ProjectedScoresSpec) or not isinstance(values, ProjectedValuesSpec):
        return None
    if values.num_kv_heads != scores.num_kv_heads or scores.norm is not None:
        return None
    if mixer.bias is not None or mixer.cap is not None:
        return None
    return PackedAttentionSpec(
        num_heads=scores.num_heads,
        num_kv_heads=scores.num_kv_heads,
        head_dim=scores.head_dim,
        value_dim=values.head_dim,
        scale=scores.scale,
        causal=mixer.causal,
        window=mixer.window,
        rope=scores.rope,
        bias=scores.query_bias or scores.key_bias or values.value_bias,
        output_bias=values.output_bias,
    )
