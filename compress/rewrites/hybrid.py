"""hybrid: softmax attention over a sliding window, linear attention before it."""

from __future__ import annotations

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from compress.model.mixer import MixerSpec
from compress.model.mixers.softmax_attention import SoftmaxAttentionSpec
from compress.model.mixers.windowed_linear_attention import WindowedLinearAttention, WindowedLinearAttentionSpec
from compress.model.transformer import Transformer
from compress.rewrites.calibration import Calibration
from compress.rewrites.mixer_swap import (
    FeatureOptions,
    MixerSample,
    check_decoder,
    feature_mixer,
    loop_of,
    mixer_of,
    mixer_samples,
    start_features,
    swap_mixers,
)
from compress.rewrites.rewrite import rewrite

NAME = "hybrid"


class Hybrid(FeatureOptions):
    """`window`: tokens that attention looks at exactly; `eps`: least denominator. See `FeatureOptions`."""

    feature: str = "hedgehog"
    window: PositiveInt = 64
    eps: PositiveFloat = 1e-6


@rewrite(NAME, Hybrid)
def hybrid(model: Transformer, options: Hybrid, calibration: Calibration) -> Transformer:
    """Keep softmax attention over the last `window` tokens, and sum up what lies before them by linear attention.

    Both parts share one denominator; a learned gate per head weighs the window. It starts where the window has the
    share of the attention that it has in the original, mean over the calibration tokens. The state has the window's
    keys and values beside the sums: constant size. Not exact. "auto:K" takes the layers whose output comes
    closest to the original's at the start. Refused for bidirectional layers and for values that are not projected.
    Source: LoLCATs, Zhang et al. 2024 (arXiv 2410.10254).
    """
    features = start_features(calibration, options.seed)

    def swap(mixer: SoftmaxAttentionSpec) -> MixerSpec:
        kind = WindowedLinearAttentionSpec.model_fields["kind"].default
        return feature_mixer(kind, mixer, options, window=options.window, eps=options.eps)

    def start(model: Transformer, result: Transformer, blocks: list[int]) -> None:
        features(model, result, blocks)
        _start_gates(model, {block: _windowed(result, block) for block in blocks}, calibration)

    return swap_mixers(NAME, model, options.layers, calibration, lambda spec: check_decoder(spec, NAME), swap, start)


def _windowed(model: Transformer, block: int) -> WindowedLinearAttention:
    mixer = model.block(block).mixer
    assert isinstance(mixer, WindowedLinearAttention)
    return mixer


def _start_gates(model: Transformer, mixers: dict[int, WindowedLinearAttention], calibration: Calibration) -> None:
    """Set the log of the gates (H,) so that they give the window its share, over the tokens that have something before
    it; 0 where there are none. One pass for all blocks."""
    totals = {block: torch.zeros_like(mixer.gate_H) for block, mixer in mixers.items()}
    counts = {block: torch.zeros_like(mixer.gate_H) for block, mixer in mixers.items()}
    for mixer in mixers.values():
        mixer.gate_H.zero_()
    for _, samples in mixer_samples(model, calibration, list(mixers)):
        for block, mixer in mixers.items():
            off_BHN, known_BHN = _missing_share(model, mixer, samples[block], block)
            totals[block] += torch.where(known_BHN, off_BHN, 0.0).sum(dim=(0, 2))
            counts[block] += known_BHN.sum(dim=(0, 2))
    for block, mixer in mixers.items():
        mixer.gate_H.copy_(totals[block] / counts[block].clamp(min=1))


def _missing_share(
    model: Transformer, mixer: WindowedLinearAttention, sample: MixerSample, block: int
) -> tuple[Tensor, Tensor]:
    """How far each token's log odds of the window are from the original's (B,H,N), and where both are known."""
    loop = loop_of(model, block)
    rows_BHNN = mixer_of(model, block).attention(sample.x_BND, loop, sample.context)
    assert rows_BHNN is not None
    before_BHN = rows_BHNN.tril(diagonal=-mixer.spec.window).sum(dim=-1)
    wanted_BHN = torch.logit(1 - before_BHN, eps=1e-4)
    found_BHN = mixer.log_odds(sample.x_BND, loop, sample.context)
    return wanted_BHN - found_BHN, found_BHN.isfinite() & (before_BHN > 0)
