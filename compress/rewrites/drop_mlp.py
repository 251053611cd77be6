"""drop-mlp: a feed-forward goes, its mean stays."""

from __future__ import annotations

import torch

from compress.model.ffn import Ffn
from compress.model.ffns.affine import Constant, ConstantSpec
from compress.model.transformer import Transformer
from compress.rewrites.calibration import AffineFit, Calibration, Fitting
from compress.rewrites.layers import Layers
from compress.rewrites.mlp_fit import replace_ffns
from compress.rewrites.rewrite import Options, rewrite
from compress.rewrites.search_range import SearchRange, nothing_to_choose

NAME = "drop-mlp"


class DropMlp(Options):
    layers: Layers = "all"


@rewrite(NAME, DropMlp, search=SearchRange(("ffn",), nothing_to_choose))
def drop_mlp(model: Transformer, options: DropMlp, calibration: Calibration) -> Transformer:
    """Replace feed-forwards by their mean output (bias compensation): D numbers in place of 2 D F.

    c = E[what the feed-forward should add] over the calibration tokens, each weighted by 1 / |its residual stream|^2,
    sequentially. Not exact. "auto:K" takes the layers whose output varies least.
    Source: Bermeitinger et al. 2024 (arXiv 2410.13732), variant a.
    """
    return replace_ffns(
        NAME, model, options.layers, calibration, ConstantSpec(), _mean, _fill, lambda moments: moments.whole.variance_y
    )


def _mean(moments: Fitting) -> AffineFit:
    """The best constant; nothing of the variance is explained by it."""
    whole = moments.whole
    return AffineFit(torch.zeros_like(whole.cross_IO), whole.mean_y_O, fvu=1.0)


def _fill(ffn: Ffn, fit: AffineFit) -> None:
    assert isinstance(ffn, Constant)
    ffn.value[0].copy_(fit.bias_O.float())
