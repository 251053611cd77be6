"""low-rank-affine-mlp: a feed-forward becomes an affine map of low rank. R rank."""

from __future__ import annotations

import torch
from pydantic import Field, PositiveInt

from compress.model.ffn import Ffn
from compress.model.ffns.affine import LowRankAffine, LowRankAffineSpec
from compress.model.transformer import Transformer
from compress.rewrites.calibration import AffineFit, Calibration
from compress.rewrites.layers import Layers
from compress.rewrites.mlp_fit import replace_ffns
from compress.rewrites.rewrite import Options, rewrite
from compress.rewrites.search_range import SearchRange, parts_of_width
from targets.errors import InputError

NAME = "low-rank-affine-mlp"


class LowRankAffineMlp(Options):
    rank: PositiveInt = Field(examples=[2])
    layers: Layers = "all"


@rewrite(NAME, LowRankAffineMlp, search=SearchRange(("ffn",), parts_of_width("rank", 0.25, 0.5, 0.125), early=True))
def low_rank_affine_mlp(model: Transformer, options: LowRankAffineMlp, calibration: Calibration) -> Transformer:
    """Replace feed-forwards by y = (x P) R + c: 2 D rank numbers in place of 2 D F.

    Reduced-rank regression: the truncated SVD of Cov(x,x)^-1/2 Cov(x,y), fitted sequentially on the model's own
    inputs, with the weights and the ridge of affine-mlp. Not exact. "auto:K" takes the layers with the least
    unexplained variance beside their stream. Source: Izenman 1975.
    """
    if options.rank > model.structure.hidden_size:
        raise InputError(f"{NAME}: rank {options.rank} is above the hidden size {model.structure.hidden_size}")

    def fill(ffn: Ffn, fit: AffineFit) -> None:
        assert isinstance(ffn, LowRankAffine)
        u, s, vh = torch.linalg.svd(fit.weight_IO, full_matrices=False)
        root_R = s[: options.rank].sqrt()
        ffn.down.set((u[:, : options.rank] * root_R).T.float())
        ffn.up.set((vh[: options.rank] * root_R[:, None]).T.float(), fit.bias_O.float())

    spec = LowRankAffineSpec(rank=options.rank)
    return replace_ffns(NAME, model, options.layers, calibration, spec, lambda moments: moments.fit(options.rank), fill)
