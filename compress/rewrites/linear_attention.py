"""linear-attention: the exponential of attention becomes a product of features."""

from __future__ import annotations

from pydantic import PositiveFloat

from compress.model.mixer import MixerSpec
from compress.model.mixers.linear_attention import LinearAttentionSpec
from compress.model.mixers.softmax_attention import SoftmaxAttentionSpec
from compress.model.transformer import Transformer
from compress.rewrites.calibration import Calibration
from compress.rewrites.mixer_swap import FeatureOptions, check_heads, feature_mixer, start_features, swap_mixers
from compress.rewrites.rewrite import rewrite
from compress.rewrites.search_range import SearchRange, each

NAME = "linear-attention"


class LinearAttentionOptions(FeatureOptions):
    """`eps`: least denominator. See `FeatureOptions`."""

    eps: PositiveFloat = 1e-6


@rewrite(NAME, LinearAttentionOptions, search=SearchRange(("mixer",), each(feature=("t2r", "elu"))))
def linear_attention(model: Transformer, options: LinearAttentionOptions, calibration: Calibration) -> Transformer:
    """Replace softmax(q k^T) v by phi(q) (phi(k)^T v) / phi(q) sum phi(k): linear cost, and a state of fixed size.

    Projections keep their weights; phi starts at what its file says (`compress/model/features`) and is to be trained
    by attention transfer. Causal or not, as the layer was. Not exact. "auto:K" takes the layers whose output comes
    closest to the original's at the start. Refused for values that are not projected. Sources: Katharopoulos et al.
    2020 (arXiv 2006.16236); T2R, Kasai et al. 2021 (2103.13076); Hedgehog, Zhang et al. 2024 (2402.04347); Performer,
    Choromanski et al. 2020 (2009.14794).
    """

    def swap(mixer: SoftmaxAttentionSpec) -> MixerSpec:
        kind = LinearAttentionSpec.model_fields["kind"].default
        return feature_mixer(kind, mixer, options, eps=options.eps, causal=mixer.causal)

    start = start_features(calibration, options.seed)
    return swap_mixers(NAME, model, options.layers, calibration, lambda spec: check_heads(spec, NAME), swap, start)
