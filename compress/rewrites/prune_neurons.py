"""prune-neurons: the least useful hidden units of a feed-forward go, the rest is fitted again. F intermediate size."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from compress.model.block import BlockSpec
from compress.model.ffns.gated_mlp import GatedMlp, GatedMlpSpec
from compress.model.ffns.mlp import Mlp, MlpSpec
from compress.model.sequence import Context
from compress.model.transformer import Transformer
from compress.rewrites.calibration import AffineFit, Calibration, target_moments
from compress.rewrites.layers import Layers, resolve
from compress.rewrites.mlp_fit import change_in_turn
from compress.rewrites.rewrite import Options, rewrite
from compress.rewrites.search_range import SearchRange, each
from compress.rewrites.surgery import single_loop, with_blocks
from compress.rewrites.width import Width, counted
from targets.errors import InputError

NAME = "prune-neurons"


class PruneNeurons(Options):
    """`keep`: hidden units that stay in each chosen layer, as a count or as a share below 1."""

    keep: Width = Field(examples=[3])
    layers: Layers = "all"


@rewrite(
    NAME,
    PruneNeurons,
    search=SearchRange(("ffn",), each(keep=(0.75, 0.5, 0.25, 0.875, 0.625, 0.375, 0.125)), early=True),
)
def prune_neurons(model: Transformer, options: PruneNeurons, calibration: Calibration) -> Transformer:
    """Keep the most useful hidden units of a feed-forward and fit its second map again.

    A unit's use is the variance that it sends on, Var(h_f) |W2_f|^2, over the calibration tokens; W2 and b2 are then
    the least-squares fit of what the feed-forward should give on the units that stay, sequentially on the model's own
    inputs. In a gated feed-forward a unit is a row of the gate and of the up map. Not exact. "auto:K" takes the layers
    whose output stays best explained. Refused for replaced feed-forwards and for looped blocks. Source:
    optimal-brain-style structured pruning with a least-squares refit, as in LeCun et al. 1990 and Hassibi and Stork
    1993.
    """

    def change(model: Transformer, block: int) -> tuple[Transformer, AffineFit]:
        return _pruned(model, block, options, calibration)

    def losses(blocks: list[int]) -> dict[int, float]:
        return {block: change(model, block)[1].fvu for block in blocks}

    blocks = resolve(options.layers, model, lambda spec: _check(spec, options), losses)
    return change_in_turn(NAME, model, blocks, calibration, change)


def _check(spec: BlockSpec, options: PruneNeurons) -> None:
    single_loop(spec, NAME)
    if not isinstance(spec.ffn, MlpSpec | GatedMlpSpec):
        raise InputError(f"{NAME} is refused: it works on two-layer feed-forwards, and a chosen layer has none")
    if isinstance(spec.ffn, GatedMlpSpec) and spec.ffn.norm is not None:
        raise InputError(f"{NAME} is refused: a norm over the hidden units of a chosen layer reads all of them")
    if options.keep > spec.ffn.intermediate_size:
        raise InputError(
            f"{NAME}: keep {options.keep} is above the {spec.ffn.intermediate_size} hidden units of a layer"
        )


def _pruned(
    model: Transformer, block: int, options: PruneNeurons, calibration: Calibration
) -> tuple[Transformer, AffineFit]:
    spec, old = model.structure.blocks[block].ffn, model.block(block).ffn
    assert isinstance(spec, MlpSpec | GatedMlpSpec) and isinstance(old, Mlp | GatedMlp)
    keep = counted(options.keep, spec.intermediate_size)

    def hidden(block: int, x_BND: Tensor, context: Context) -> Tensor:
        return old.hidden(x_BND, 0)

    moments = target_moments(model, calibration, [block], "ffn", hidden)[block].whole
    use_F = moments.covariance_II.diagonal() * old.down.weight.double().square().sum(dim=0)
    kept_K = use_F.topk(keep).indices.sort().values
    fit = moments.restricted(kept_K).fit()
    offset = {"output_bias": True} if isinstance(spec, GatedMlpSpec) else {"bias": True}
    fewer = spec.replace(intermediate_size=keep, **offset)
    result = with_blocks(model, lambda block_spec: block_spec.replace(ffn=fewer), [block])
    new = result.block(block).ffn
    assert isinstance(new, Mlp | GatedMlp)
    for source, target in zip(old.readers(), new.readers(), strict=True):
        target.set(source.weight[kept_K], source.bias_or_zero()[kept_K] if len(target.bias) else None)
    new.down.set(fit.weight_IO.T.float(), fit.bias_O.float())
    return result, fit
