"""gated-linear-attention: linear attention whose sums forget."""

from __future__ import annotations

from pydantic import PositiveFloat

from compress.model.mixer import MixerSpec
from compress.model.mixers.gated_linear_attention import GatedLinearAttentionSpec
from compress.model.mixers.softmax_attention import SoftmaxAttentionSpec
from compress.model.transformer import Transformer
from compress.rewrites.calibration import Calibration
from compress.rewrites.mixer_swap import FeatureOptions, check_decoder, feature_mixer, start_features, swap_mixers
from compress.rewrites.rewrite import rewrite

NAME = "gated-linear-attention"


class GatedLinearAttentionOptions(FeatureOptions):
    """`eps`: least denominator. See `FeatureOptions`."""

    eps: PositiveFloat = 1e-6


@rewrite(NAME, GatedLinearAttentionOptions)
def gated_linear_attention(
    model: Transformer, options: GatedLinearAttentionOptions, calibration: Calibration
) -> Transformer:
    """Replace attention by linear attention whose sums fade: the state stays bounded, and far tokens can be let go.

    S_t = a_t S_{t-1} + phi(k_t) v_t^T, with a gate a_t that each token sets. Projections keep their weights; the gates
    start all but open (1/e after 4,096 tokens), so that it starts as `linear-attention` does, and are to be trained.
    Not exact. "auto:K" takes the layers whose output comes closest to the original's at the start. Refused for layers
    that look ahead and for values that are not projected. Source: Yang et al. 2024 (arXiv 2312.06635), with one gate a
    head.
    """

    def swap(mixer: SoftmaxAttentionSpec) -> MixerSpec:
        kind = GatedLinearAttentionSpec.model_fields["kind"].default
        return feature_mixer(kind, mixer, options, eps=options.eps)

    start = start_features(calibration, options.seed)
    return swap_mixers(NAME, model, options.layers, calibration, lambda spec: check_decoder(spec, NAME), swap, start)
