"""drop-key-bias: softmax attention does not need it."""

from __future__ import annotations

from compress.model.block import BlockSpec
from compress.model.scores.projected import ProjectedScoresSpec
from compress.model.transformer import Transformer
from compress.rewrites.calibration import Calibration
from compress.rewrites.rewrite import Options, rewrite
from compress.rewrites.surgery import Special, attention_spec, refuse_positions, with_blocks

NAME = "drop-key-bias"
#: What attention may have that this carries over.
CARRIES: frozenset[Special] = frozenset({"window", "bias"})


class DropKeyBias(Options):
    """No options: every layer's key bias goes."""


@rewrite(NAME, DropKeyBias, exact=True)
def drop_key_bias(model: Transformer, options: DropKeyBias, calibration: Calibration) -> Transformer:
    """Remove the bias of the keys.

    (x_i Wq + bq).(x_j Wk + bk) = (x_i Wq + bq).(x_j Wk) + (x_i Wq + bq).bk, and the last term is the same for all j,
    so softmax over j removes it. Exact, causal or not. Refused under rotary positions (the term then depends on j).
    """
    return with_blocks(model, _without_key_bias, list(range(len(model.structure.blocks))))


def _without_key_bias(spec: BlockSpec) -> BlockSpec:
    if spec.mixer is None:
        return spec
    mixer = attention_spec(spec, NAME, CARRIES)
    if not isinstance(mixer.scores, ProjectedScoresSpec) or not mixer.scores.key_bias:
        return spec
    refuse_positions(mixer, NAME)
    return spec.replace(mixer=mixer.replace(scores=mixer.scores.replace(key_bias=False)))
