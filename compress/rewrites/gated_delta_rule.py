"""gated-delta-rule: attention becomes a memory in which tokens write over what their keys held."""

from __future__ import annotations

from compress.model.mixer import MixerSpec
from compress.model.mixers.gated_delta_rule import GatedDeltaRuleSpec
from compress.model.mixers.softmax_attention import SoftmaxAttentionSpec
from compress.model.transformer import Transformer
from compress.rewrites.calibration import Calibration
from compress.rewrites.mixer_swap import FeatureOptions, check_decoder, feature_mixer, start_features, swap_mixers
from compress.rewrites.rewrite import rewrite

NAME = "gated-delta-rule"


class GatedDeltaRuleOptions(FeatureOptions):
    """See `FeatureOptions`."""


@rewrite(NAME, GatedDeltaRuleOptions)
def gated_delta_rule(model: Transformer, options: GatedDeltaRuleOptions, calibration: Calibration) -> Transformer:
    """Replace attention by a fading memory, one matrix a head, in which a token writes over what its key held.

    S_t = S' + b_t k_t (v_t - k_t S')^T with S' = a_t S_{t-1}; y_t = q_t S_t. Projections keep their weights; gates
    start all but open and strengths at nearly 1, and are to be trained. It starts far from softmax attention: nothing
    divides by the sum of the weights. An exported graph has one Scan a layer, which fp16 does not convert. Not exact.
    "auto:K" takes the layers whose output comes closest to the original's at the start. Refused for layers that look
    ahead and for values that are not projected. Source: Yang et al. 2024 (arXiv 2412.06464).
    """

    def swap(mixer: SoftmaxAttentionSpec) -> MixerSpec:
        kind = GatedDeltaRuleSpec.model_fields["kind"].default
        return feature_mixer(kind, mixer, options)

    start = start_features(calibration, options.seed)
    return swap_mixers(NAME, model, options.layers, calibration, lambda spec: check_decoder(spec, NAME), swap, start)
