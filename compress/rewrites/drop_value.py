"""drop-value: attention averages the tokens themselves. D hidden size, H heads."""

from __future__ import annotations

from torch import Tensor

from compress.model.block import BlockSpec
from compress.model.transformer import Transformer
from compress.model.values.gated_mean import GatedMean, GatedMeanSpec
from compress.rewrites.calibration import AffineFit, Calibration
from compress.rewrites.layers import Layers, resolve
from compress.rewrites.rewrite import Options, rewrite
from compress.rewrites.search_range import SearchRange, nothing_to_choose
from compress.rewrites.surgery import EVERY, attention, attention_spec, single_loop, values_spec, with_blocks
from compress.rewrites.value_fit import annealed, fit_projection, importance

NAME = "drop-value"
#: What attention may have that this carries over.
CARRIES = EVERY


class DropValue(Options):
    """`anneal`: healing fades the old values out instead of doing without them at once."""

    anneal: bool = False
    layers: Layers = "all"


@rewrite(NAME, DropValue, search=SearchRange(("mixer",), nothing_to_choose))
def drop_value(model: Transformer, options: DropValue, calibration: Calibration) -> Transformer:
    """Drop the value projection: y = (sum_h a_h A_h) x W + b.

    The gates start at the heads' shares of C^1/2 Wv_h Wo_h (nuclear norm), W (D x D) and b are the least-squares fit
    of the original's attention output. With one head this is the exact merged value-output matrix. "auto:K" takes
    the layers whose output is best explained. Source: Bermeitinger et al. 2024 (arXiv 2410.13732), variant c.
    """
    blocks = resolve(
        options.layers,
        model,
        _check,
        lambda blocks: {block: _fit(model, calibration, block)[1].fvu for block in blocks},
    )
    for block in blocks:  # one after the other, on inputs that the earlier ones changed
        weights_H, fit = _fit(model, calibration, block)
        result = with_blocks(
            model,
            lambda spec: spec.replace(
                mixer=attention_spec(spec, NAME, CARRIES).replace(values=GatedMeanSpec(projection=True))
            ),
            [block],
        )
        values = attention(result.block(block)).values
        assert isinstance(values, GatedMean) and values.output is not None
        for gates in values.gates:
            gates.copy_(weights_H.float())
        values.output.set(fit.weight_IO.T.float(), fit.bias_O.float())
        calibration.note(f"{NAME}: layer {block} leaves {fit.fvu:.1%} of its output unexplained")
        model = annealed(model, result, block) if options.anneal else result
    return model


def _check(spec: BlockSpec) -> None:
    values_spec(spec, NAME, CARRIES)
    single_loop(spec, NAME)


def _fit(model: Transformer, calibration: Calibration, block: int) -> tuple[Tensor, AffineFit]:
    weights_H = importance(model, calibration, block)
    return weights_H, fit_projection(model, calibration, block, weights_H)
