"""affine-mlp: a feed-forward becomes one affine map."""

from __future__ import annotations

from compress.model.ffn import Ffn
from compress.model.ffns.affine import Affine, AffineSpec
from compress.model.transformer import Transformer
from compress.rewrites.calibration import AffineFit, Calibration
from compress.rewrites.layers import Layers
from compress.rewrites.mlp_fit import replace_ffns
from compress.rewrites.rewrite import Options, rewrite
from compress.rewrites.search_range import SearchRange, nothing_to_choose

NAME = "affine-mlp"


class AffineMlp(Options):
    layers: Layers = "all"


@rewrite(NAME, AffineMlp, search=SearchRange(("ffn",), nothing_to_choose))
def affine_mlp(model: Transformer, options: AffineMlp, calibration: Calibration) -> Transformer:
    """Replace feed-forwards by y = x B + c: D^2 numbers in place of 2 D F.

    B = Cov(x,x)^-1 Cov(x,y), c = E y - E x B over the calibration tokens, each weighted by 1 / |its residual stream|^2,
    with the ridge that serves unseen sequences best; fitted sequentially on the model's own inputs. Not exact. "auto:K"
    takes the layers with the least unexplained variance beside their stream.
    """
    return replace_ffns(NAME, model, options.layers, calibration, AffineSpec(), lambda moments: moments.fit(), _fill)


def _fill(ffn: Ffn, fit: AffineFit) -> None:
    assert isinstance(ffn, Affine)
    ffn.map.set(fit.weight_IO.T.float(), fit.bias_O.float())
