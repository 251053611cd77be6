"""swap-activation: a feed-forward's activation function becomes a cheaper one, and its second map is fitted again."""

from __future__ import annotations

from torch import Tensor

from compress.model.activations import ACTIVATIONS, ActivationName
from compress.model.block import BlockSpec
from compress.model.ffns.mlp import Mlp, MlpSpec
from compress.model.sequence import Context
from compress.model.transformer import Transformer
from compress.rewrites.calibration import AffineFit, Calibration, target_moments
from compress.rewrites.layers import Layers, resolve
from compress.rewrites.mlp_fit import change_in_turn
from compress.rewrites.rewrite import Options, rewrite
from compress.rewrites.search_range import SearchRange, each
from compress.rewrites.surgery import single_loop, with_blocks
from targets.errors import InputError

NAME = "swap-activation"


class SwapActivation(Options):
    """`to`: the new activation function, by its Hugging Face name."""

    to: ActivationName = "relu"
    layers: Layers = "all"


@rewrite(NAME, SwapActivation, search=SearchRange(("ffn",), each(to=("relu",))))
def swap_activation(model: Transformer, options: SwapActivation, calibration: Calibration) -> Transformer:
    """Give feed-forwards another activation function: ReLU costs a sixth of GELU on a CPU.

    W2 and b2 are the least-squares fit of what the feed-forward should give on the new hidden units, sequentially on
    the model's own inputs. Not exact; wants healing. "auto:K" takes the layers whose output stays best explained.
    Refused for replaced and for gated feed-forwards, and for looped blocks. Source: Mirzadeh et al. 2024
    (arXiv 2310.04564), who swap in ReLU and finetune.
    """

    def change(model: Transformer, block: int) -> tuple[Transformer, AffineFit]:
        return _swapped(model, block, options.to, calibration)

    def losses(blocks: list[int]) -> dict[int, float]:
        return {block: change(model, block)[1].fvu for block in blocks}

    blocks = resolve(options.layers, model, _check, losses)
    return change_in_turn(NAME, model, blocks, calibration, change)


def _check(spec: BlockSpec) -> None:
    single_loop(spec, NAME)
    if not isinstance(spec.ffn, MlpSpec):
        raise InputError(f"{NAME} is refused: it works on ungated two-layer feed-forwards, and a chosen layer has none")


def _swapped(
    model: Transformer, block: int, to: ActivationName, calibration: Calibration
) -> tuple[Transformer, AffineFit]:
    spec, old = model.structure.blocks[block].ffn, model.block(block).ffn
    assert isinstance(spec, MlpSpec) and isinstance(old, Mlp)

    def hidden(block: int, x_BND: Tensor, context: Context) -> Tensor:
        return ACTIVATIONS[to](old.up(x_BND, 0))

    fit = target_moments(model, calibration, [block], "ffn", hidden)[block].whole.fit()
    swapped = spec.replace(activation=to, bias=True)
    result = with_blocks(model, lambda block_spec: block_spec.replace(ffn=swapped), [block])
    new = result.block(block).ffn
    assert isinstance(new, Mlp)
    new.up.set(old.up.weight, old.up.bias_or_zero())
    new.down.set(fit.weight_IO.T.float(), fit.bias_O.float())
    return result, fit
