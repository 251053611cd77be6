"""sumformer: attention becomes an answer to the mean of what all tokens say.

B batch, N tokens, D hidden size, S summary size.
"""

from __future__ import annotations

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from compress.model.block import BlockSpec
from compress.model.mixers.sumformer import Sumformer, SumformerSpec
from compress.model.sequence import Context
from compress.model.transformer import Transformer
from compress.rewrites.calibration import AffineFit, Calibration, Moments, roots
from compress.rewrites.layers import Layers, resolve
from compress.rewrites.mixer_swap import mixer_samples
from compress.rewrites.rewrite import Options, rewrite
from compress.rewrites.search_range import SearchRange, parts_of_width
from compress.rewrites.surgery import EVERY, attention_spec, single_loop, with_blocks
from targets.errors import InputError

NAME = "sumformer"
#: What attention may have that this carries over.
CARRIES = EVERY


class SumformerOptions(Options):
    """`summary_size`: numbers that a token says and hears. `intermediate_size`: hidden units of the two MLPs. `seed`:
    of their random directions."""

    summary_size: PositiveInt = Field(examples=[2])
    intermediate_size: PositiveInt = 64
    seed: NonNegativeInt = 0
    layers: Layers = "all"


@rewrite(NAME, SumformerOptions, search=SearchRange(("mixer",), parts_of_width("summary_size", 0.5, 0.25)))
def sumformer(model: Transformer, options: SumformerOptions, calibration: Calibration) -> Transformer:
    """Replace attention by y_i = psi(x_i, mean_j phi(x_j)): linear cost, a state of one vector.

    The affine parts are the least-squares fit of the original's attention output on (x_i, mean_j x_j), the second map
    cut to `summary_size` by reduced-rank regression; the MLPs beside them start at zero and are to be trained.
    Sequential. Causal or not, as the layer was. Not exact. "auto:K" takes the layers whose output is best explained.
    Refused for looped blocks and above D. Source: Alberti et al. 2023 (arXiv 2307.02301).
    """
    hidden_size = model.structure.hidden_size
    if options.summary_size > hidden_size:
        raise InputError(
            f"{NAME} is refused: summary_size {options.summary_size} is above the hidden size {hidden_size}"
        )

    def losses(blocks: list[int]) -> dict[int, float]:
        return {block: moments.fit().fvu for block, moments in _moments(model, calibration, blocks).items()}

    for block in resolve(options.layers, model, _check, losses):
        moments = _moments(model, calibration, [block])[block]
        fit = moments.fit()
        model = with_blocks(
            model,
            lambda spec: spec.replace(
                mixer=SumformerSpec(
                    summary_size=options.summary_size,
                    intermediate_size=options.intermediate_size,
                    causal=attention_spec(spec, NAME, CARRIES).causal,
                )
            ),
            [block],
        )
        mixer = model.block(block).mixer
        assert isinstance(mixer, Sumformer)
        _start(mixer, moments, fit, torch.Generator().manual_seed(options.seed + block))
        calibration.note(f"{NAME}: layer {block} leaves {fit.fvu:.1%} of its attention's output unexplained")
    return model


def _check(spec: BlockSpec) -> None:
    attention_spec(spec, NAME, CARRIES)
    single_loop(spec, NAME)


def _moments(model: Transformer, calibration: Calibration, blocks: list[int]) -> dict[int, Moments]:
    """Moments of ([x_i, mean_j x_j], the original's attention output) over the real tokens."""
    moments = {block: Moments() for block in blocks}
    for _, samples in mixer_samples(model, calibration, blocks):
        for block, sample in samples.items():
            causal = attention_spec(model.structure.blocks[block], NAME, CARRIES).causal
            x_BND = sample.x_BND
            both_BNE = torch.cat([x_BND, _mean(x_BND, sample.context, causal)], dim=-1)
            real_BR = sample.real_BR
            moments[block].add(both_BNE[:, : real_BR.shape[1]][real_BR], sample.target_BRD[real_BR])
    return moments


def _mean(x_BND: Tensor, context: Context, causal: bool) -> Tensor:
    """The mean of the real tokens, or of those up to each one (B,N,D)."""
    real_BN = context.real_BN(x_BND.shape[1])
    weight_BN1 = torch.ones_like(x_BND[..., :1]) if real_BN is None else real_BN[..., None].to(x_BND.dtype)
    sums_BND, counts_BN1 = (x_BND * weight_BN1).cumsum(dim=1), weight_BN1.cumsum(dim=1)
    if not causal:
        sums_BND, counts_BN1 = sums_BND[:, -1:], counts_BN1[:, -1:]
    return (sums_BND / counts_BN1.clamp(min=1)).expand_as(x_BND)


def _start(mixer: Sumformer, moments: Moments, fit: AffineFit, generator: torch.Generator) -> None:
    size, summary = fit.bias_O.shape[0], mixer.spec.summary_size
    half_DD, inverse_DD = roots(moments.covariance_II[size:, size:])
    u, s, vh = torch.linalg.svd(half_DD @ fit.weight_IO[size:], full_matrices=False)
    mixer.own.set(fit.weight_IO[:size].T.float(), fit.bias_O.float())
    mixer.say.set((inverse_DD @ u[:, :summary]).T.float())
    mixer.hear.set((s[:summary, None] * vh[:summary]).T.float())
    for random, bias in ((mixer.say_up, True), (mixer.own_up, True), (mixer.hear_up, False)):
        rows, columns = random.weight.shape
        weight = torch.randn(rows, columns, generator=generator) * columns**-0.5
        random.set(weight.to(random.weight), random.weight.new_zeros(rows) if bias else None)
    mixer.say_down.set(torch.zeros_like(mixer.say_down.weight))
    mixer.down.set(torch.zeros_like(mixer.down.weight))
