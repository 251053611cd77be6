"""fold-value-bias: the bias of the values moves behind the attention."""

from __future__ import annotations

from compress.model.block import BlockSpec
from compress.model.transformer import Transformer
from compress.model.values.projected import ProjectedValues, ProjectedValuesSpec
from compress.rewrites.calibration import Calibration
from compress.rewrites.rewrite import Options, rewrite
from compress.rewrites.surgery import EVERY, attention, attention_spec, with_blocks

NAME = "fold-value-bias"
#: What attention may have that this carries over.
CARRIES = EVERY


class FoldValueBias(Options):
    """No options: every layer's value bias is folded."""


@rewrite(NAME, FoldValueBias, exact=True)
def fold_value_bias(model: Transformer, options: FoldValueBias, calibration: Calibration) -> Transformer:
    """Fold the bias of the values into the bias of the output projection.

    A (X Wv + 1 bv) Wo + bo = A X Wv Wo + (bv Wo + bo), because the rows of A sum to 1. Exact for softmax.
    """
    chosen = [index for index, spec in enumerate(model.structure.blocks) if _has_value_bias(spec)]
    result = with_blocks(model, _without_value_bias, chosen)
    for index in chosen:
        old, new = attention(model.block(index)).values, attention(result.block(index)).values
        assert isinstance(old, ProjectedValues) and isinstance(new, ProjectedValues)
        heads_per_group = old.output.weight.shape[1] // old.value.weight.shape[0]
        for loop, target in enumerate(new.output.bias):
            weight_DV = old.output.weight_of(loop).double()
            bias_GV = old.value.bias[loop].double().reshape(old.num_kv_heads, -1)
            bias_HV = bias_GV.repeat_interleave(heads_per_group, dim=0)
            target.copy_((old.output.bias_or_zero(loop).double() + weight_DV @ bias_HV.flatten()).float())
    return result


def _has_value_bias(spec: BlockSpec) -> bool:
    if spec.mixer is None:
        return False
    values = attention_spec(spec, NAME, CARRIES).values
    return isinstance(values, ProjectedValuesSpec) and values.value_bias


def _without_value_bias(spec: BlockSpec) -> BlockSpec:
    mixer = attention_spec(spec, NAME, CARRIES)
    values = mixer.values.replace(value_bias=False, output_bias=True)
    return spec.replace(mixer=mixer.replace(values=values))
