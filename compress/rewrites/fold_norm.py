"""fold-norm: gains and offsets of the norms move into the maps that read them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compress.model.block import BlockSpec
from compress.model.heads.classifier import ClassifierSpec
from compress.model.heads.language_model import LanguageModelSpec
from compress.model.mixers.softmax_attention import SoftmaxAttentionSpec
from compress.model.norms import Norm, NormSpec
from compress.model.projection import Projection
from compress.model.scores.projected import ProjectedScores, ProjectedScoresSpec
from compress.model.transformer import Transformer
from compress.model.values.projected import ProjectedValuesSpec
from compress.rewrites.calibration import Calibration
from compress.rewrites.rewrite import Options, rewrite
from compress.rewrites.surgery import EVERY, attention_spec, rebuilt, single_loop, specials
from targets.errors import InputError

NAME = "fold-norm"
#: What attention may have that this carries over.
CARRIES = EVERY


class FoldNorm(Options):
    """No options: every norm of the model is folded."""


@rewrite(NAME, FoldNorm, exact=True)
def fold_norm(model: Transformer, options: FoldNorm, calibration: Calibration) -> Transformer:
    """Move the gains and offsets of every norm into the linear maps that read it.

    LN(x) W + b = n(x) (diag(g) W) + (b + beta W), n(x) the norm without gains. Exact. Refused for post-norm blocks,
    whose norms also feed the residual, for blocks that are looped with gains of their own, and where something reads
    the normed tokens raw or through a map without a bias to take the offset. Source: Ashkboos et al. 2024
    (arXiv 2401.15024), section 3.
    """
    blocks = tuple(_without_gains(spec) for spec in model.structure.blocks)
    norm = model.structure.final_norm
    head = model.structure.head
    foldable = model.head.reader() is not None
    if _has_offset(norm) and foldable and isinstance(head, ClassifierSpec | LanguageModelSpec):
        head = head.replace(bias=True)
    final_norm = _plain(norm) if foldable else norm
    structure = model.structure.replace(blocks=blocks, final_norm=final_norm, head=head)
    result = rebuilt(model, structure)
    for name in result.state_dict().keys() - model.state_dict().keys():
        result.get_parameter(name).zero_()  # a bias that the model did without
    for index in range(len(blocks)):
        old, new = model.block(index), result.block(index)
        for norm_module, half_old, half_new in (
            (old.mixer_norm, old.mixer, new.mixer),
            (old.ffn_norm, old.ffn, new.ffn),
        ):
            if norm_module is None or half_old is None or half_new is None:
                continue
            readers, targets = half_old.readers(), half_new.readers()
            if readers is None or targets is None:
                raise InputError(f"{NAME} is refused: layer {index} uses its normed tokens raw; fold before merging")
            for reader, target in zip(readers, targets, strict=True):
                if len(norm_module.bias) and not len(target.bias) and not _is_key(old.mixer, reader):
                    raise InputError(
                        f"{NAME} is refused: layer {index} reads its norm through a map without a bias to take the "
                        f"offset; fold before other rewrites"
                    )
                _fold(norm_module, reader, target, pools=1)
    old_reader, new_reader = model.head.reader(), result.head.reader()
    if model.final_norm is not None and old_reader is not None and new_reader is not None:
        _fold(
            model.final_norm, old_reader, new_reader, pools=len(head.pools) if isinstance(head, ClassifierSpec) else 1
        )
    return result


def _without_gains(spec: BlockSpec) -> BlockSpec:
    if spec.residual == "post":
        raise InputError(f"{NAME} is refused for post-norm blocks: their norms feed the residual stream as well")
    single_loop(spec, NAME)
    mixer = spec.mixer
    if mixer is not None:
        softmax = attention_spec(spec, NAME, CARRIES)
        scores, values = softmax.scores, softmax.values
        if _has_offset(spec.mixer_norm) and isinstance(scores, ProjectedScoresSpec):
            scores = scores.replace(query_bias=True, key_bias=scores.key_bias or _sees_key_offset(softmax))
        if _has_offset(spec.mixer_norm) and isinstance(values, ProjectedValuesSpec):
            values = values.replace(value_bias=True)
        mixer = softmax.replace(scores=scores, values=values)
    ffn = spec.ffn
    if ffn is not None and _has_offset(spec.ffn_norm) and "bias" in type(ffn).model_fields:
        ffn = ffn.replace(bias=True)
    return spec.replace(mixer=mixer, ffn=ffn, mixer_norm=_plain(spec.mixer_norm), ffn_norm=_plain(spec.ffn_norm))


def _sees_key_offset(mixer: SoftmaxAttentionSpec) -> bool:
    """Whether an offset of the keys does more than move all logits of a row alike, which softmax removes."""
    turned = isinstance(mixer.scores, ProjectedScoresSpec) and mixer.scores.rope is not None
    return turned or bool({"cap", "content-bias", "norm", "whole-norm"} & set(specials(mixer)))


def _has_offset(norm: NormSpec | None) -> bool:
    """Whether a bias is needed to take what the norm adds; an RMS norm adds nothing."""
    return norm is not None and norm.kind != "rms" and norm.affine and norm.bias


def _plain(norm: NormSpec | None) -> NormSpec | None:
    return None if norm is None else norm.replace(affine=False)


def _is_key(mixer: nn.Module | None, reader: nn.Module) -> bool:
    """Whether a map makes keys, whose offset moves all logits of a row alike, so that softmax removes it."""
    scores = getattr(mixer, "scores", None)
    return isinstance(scores, ProjectedScores) and reader is scores.key


def _fold(norm: Norm, reader: Projection, target: Projection, pools: int) -> None:
    """`pools`: how many normed tokens the reader concatenates."""
    weight_OI = reader.weight.double()
    offset_O = torch.zeros_like(weight_OI[:, 0])
    if len(norm.bias):
        offset_O = weight_OI @ norm.bias[0].double().repeat(pools)
    gain_I: Tensor | float = norm.weight[0].double().repeat(pools) if len(norm.weight) else 1.0
    bias_O = (reader.bias_or_zero().double() + offset_O).float() if len(target.bias) else None
    target.set((weight_OI * gain_I).float(), bias_O)
