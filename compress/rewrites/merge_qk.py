"""merge-qk: query and key maps become one matrix per head. D hidden size, H heads, K query/key size."""

from __future__ import annotations

from compress.model.block import BlockSpec
from compress.model.scores.merged import MergedScores, MergedScoresSpec
from compress.model.scores.projected import ProjectedScoresSpec
from compress.model.transformer import Transformer
from compress.rewrites.calibration import Calibration
from compress.rewrites.layers import Layers, resolve
from compress.rewrites.rewrite import Options, rewrite
from compress.rewrites.surgery import (
    Special,
    attention,
    attention_spec,
    logit_forms,
    refuse_positions,
    single_loop,
    with_blocks,
)
from targets.errors import InputError

NAME = "merge-qk"
#: What attention may have that this carries over.
CARRIES: frozenset[Special] = frozenset({"window", "bias"})


class MergeQk(Options):
    layers: Layers = "all"


@rewrite(NAME, MergeQk, exact=True)
def merge_qk(model: Transformer, options: MergeQk, calibration: Calibration) -> Transformer:
    """Replace query and key projections by one matrix per head; the keys are then the tokens themselves.

    logit_ij = x_i M_h x_j + c_h . x_j with M_h = Wq_h Wk_h^T / sqrt(K) (D x D) and c_h = Wk_h bq_h / sqrt(K); terms
    that are constant in j are removed by softmax. Exact per head. It stores H D^2 in place of 2 D H K numbers, so it
    saves only with one head (K = D); a note says the numbers. "auto:K" prefers layers that grow least. Refused under
    rotary positions and for looped blocks. Source: Bermeitinger et al. 2024 (arXiv 2410.13732).
    """
    blocks = resolve(options.layers, model, _check, lambda blocks: {block: _growth(model, block) for block in blocks})
    result = with_blocks(model, _merged, blocks)
    for block in blocks:
        forms_HDD, offsets_HD = logit_forms(attention(model.block(block)))
        scores = attention(result.block(block)).scores
        assert isinstance(scores, MergedScores)
        scores.query.set(forms_HDD.transpose(1, 2).flatten(0, 1).float(), offsets_HD.flatten().float())
    grown = sum(_growth(model, block) for block in blocks)
    if grown > 0:
        calibration.note(
            f"{NAME}: stores {grown:,.0f} numbers MORE than separate queries and keys; it saves with 1 head"
        )
    return result


def _growth(model: Transformer, block: int) -> float:
    """Numbers that merging adds to a block."""
    mixer = attention_spec(model.structure.blocks[block], NAME, CARRIES)
    scores, width = mixer.scores, model.structure.hidden_size
    assert isinstance(scores, ProjectedScoresSpec)
    return scores.num_heads * width**2 - (scores.num_heads + scores.num_kv_heads) * scores.head_dim * width


def _check(spec: BlockSpec) -> None:
    mixer = attention_spec(spec, NAME, CARRIES)
    if not isinstance(mixer.scores, ProjectedScoresSpec):
        raise InputError(f"{NAME} is refused: a chosen layer has {mixer.scores.kind!r} scores already")
    refuse_positions(mixer, NAME)
    single_loop(spec, NAME)


def _merged(spec: BlockSpec) -> BlockSpec:
    mixer = attention_spec(spec, NAME, CARRIES)
    return spec.replace(mixer=mixer.replace(scores=MergedScoresSpec(num_heads=mixer.scores.num_heads)))
