"""hybrid: softmax attention over a sliding window, linear attention before it."""

from __future__ import annotations

from pydantic import PositiveFloat, PositiveInt

from compress.model.block import BlockSpec
from compress.model.mixer import MixerSpec
from compress.model.mixers.softmax_attention import SoftmaxAttentionSpec
from compress.model.mixers.windowed_linear_attention import (
    FIRST_GATE,
    WindowedLinearAttention,
    WindowedLinearAttentionSpec,
)
from compress.model.transformer import Transformer
from compress.rewrites.calibration import Calibration
from compress.rewrites.mixer_swap import FeatureOptions, balance_of, check_heads, start_features, swap_mixers
from compress.rewrites.rewrite import rewrite
from compress.rewrites.surgery import attention_spec
from targets.errors import InputError

NAME = "hybrid"


class Hybrid(FeatureOptions):
    """`window`: tokens that attention looks at exactly; `eps`: least denominator. See `FeatureOptions`."""

    feature: str = "hedgehog"
    window: PositiveInt = 64
    eps: PositiveFloat = 1e-6


@rewrite(NAME, Hybrid)
def hybrid(model: Transformer, options: Hybrid, calibration: Calibration) -> Transformer:
    """Keep softmax attention over the last `window` tokens, and sum up what lies before them by linear attention.

    Both parts share one denominator; a learned gate per head weighs the window (0.1 at the start). The state has the
    window's keys and values beside the sums: constant size. Not exact. "auto:K" takes the layers whose output comes
    closest to the original's at the start. Refused for bidirectional layers and for values that are not projected.
    Source: LoLCATs, Zhang et al. 2024 (arXiv 2410.10254).
    """
    features = start_features(calibration, options.seed)

    def swap(mixer: SoftmaxAttentionSpec) -> MixerSpec:
        return MixerSpec.parse(
            {
                "kind": WindowedLinearAttentionSpec.model_fields["kind"].default,
                "scores": mixer.scores,
                "values": mixer.values,
                "feature": options.feature_map(),
                "window": options.window,
                "balance": balance_of(mixer),
                "eps": options.eps,
            }
        )

    def start(model: Transformer, result: Transformer, block: int) -> None:
        features(model, result, block)
        mixer = result.block(block).mixer
        assert isinstance(mixer, WindowedLinearAttention)
        mixer.gate_H.fill_(FIRST_GATE)

    return swap_mixers(NAME, model, options.layers, calibration, _check, swap, start)


def _check(spec: BlockSpec) -> None:
    check_heads(spec, NAME)
    if not attention_spec(spec, NAME).causal:
        raise InputError(f"{NAME} is refused for a layer that looks ahead: its window ends at the token itself")
