"""fold-feature-map: the matrix of a T2R feature map goes into the query and key projections.

D hidden size, H heads, G key heads, K query/key size, F features.
"""

from __future__ import annotations

from torch import Tensor

from compress.model.block import BlockSpec
from compress.model.features.relu import ReluSpec
from compress.model.features.t2r import T2r, T2rSpec
from compress.model.mixers.linear_attention import LinearAttention, LinearAttentionSpec
from compress.model.projection import Projection
from compress.model.scores.projected import ProjectedScores, ProjectedScoresSpec
from compress.model.transformer import Transformer
from compress.rewrites.calibration import Calibration
from compress.rewrites.rewrite import Options, rewrite
from compress.rewrites.surgery import single_loop, with_blocks
from targets.errors import InputError

NAME = "fold-feature-map"


class FoldFeatureMap(Options):
    pass


@rewrite(NAME, FoldFeatureMap, exact=True)
def fold_feature_map(model: Transformer, options: FoldFeatureMap, calibration: Calibration) -> Transformer:
    """Fold T2R's feature map into the projections: queries and keys are then never formed.

    relu((x Wq_h + bq_h) s W_g + b_g) = relu(x (Wq_h s W_g) + (bq_h s W_g + b_g)), keys likewise; F numbers in place of
    K a head and token, and no matrix W. Works on all T2R layers at once. Exact. Refused under rotary positions, which
    stand between the projection and the map, for looped blocks, and for models without a T2R layer. Source: Kasai et
    al. 2021 (arXiv 2103.13076).
    """
    blocks = [block for block, spec in enumerate(model.structure.blocks) if _foldable(spec)]
    if not blocks:
        raise InputError(f"{NAME} is refused: no layer has linear attention with a t2r feature map; use it after that")
    result = with_blocks(model, _folded, blocks)
    for block in blocks:
        old, new = model.block(block).mixer, result.block(block).mixer
        assert isinstance(old, LinearAttention) and isinstance(new, LinearAttention)
        assert isinstance(old.scores, ProjectedScores) and isinstance(new.scores, ProjectedScores)
        assert isinstance(old.feature, T2r)
        weight_GKF, bias_GF = old.feature.weight_GKF.double(), old.feature.bias_GF.double()
        repeats = old.scores.spec.num_heads // old.scores.spec.num_kv_heads
        factor = old.scores.spec.scale * old.spec.balance
        _fold(
            old.scores.query,
            new.scores.query,
            factor * weight_GKF.repeat_interleave(repeats, dim=0),
            bias_GF.repeat_interleave(repeats, dim=0),
        )
        _fold(old.scores.key, new.scores.key, weight_GKF / old.spec.balance, bias_GF)
    return result


def _foldable(spec: BlockSpec) -> bool:
    mixer = spec.mixer
    if not isinstance(mixer, LinearAttentionSpec) or not isinstance(mixer.feature, T2rSpec):
        return False
    single_loop(spec, NAME)
    if not isinstance(mixer.scores, ProjectedScoresSpec):
        raise InputError(f"{NAME} is refused: it works on projected scores, and a layer has {mixer.scores.kind!r}")
    if mixer.scores.rope is not None:
        raise InputError(f"{NAME} is refused under rotary positions: they stand between projection and feature map")
    return True


def _folded(spec: BlockSpec) -> BlockSpec:
    mixer = spec.mixer
    assert isinstance(mixer, LinearAttentionSpec) and isinstance(mixer.scores, ProjectedScoresSpec)
    assert isinstance(mixer.feature, T2rSpec)
    scores = mixer.scores.replace(head_dim=mixer.feature.size, scale=1.0, query_bias=True, key_bias=True)
    return spec.replace(mixer=mixer.replace(scores=scores, feature=ReluSpec(), balance=1.0))


def _fold(old: Projection, new: Projection, weight_HKF: Tensor, bias_HF: Tensor) -> None:
    heads, size, _ = weight_HKF.shape
    map_HKD = old.weight.double().reshape(heads, size, -1)
    bias_H1K = old.bias_or_zero().double().reshape(heads, 1, size)
    folded_HFD = weight_HKF.transpose(1, 2) @ map_HKD
    new.set(folded_HFD.flatten(0, 1).float(), ((bias_H1K @ weight_HKF)[:, 0] + bias_HF).flatten().float())
