"""Calibration: streams of the user's inputs through the original and the model at hand, and the moments kept of them.

Only sums are kept, never whole activations. T tokens of a batch, I inputs and O outputs of a map.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from compress.model.block import Site
from compress.model.mixer import Context
from compress.model.structure import output_targets
from compress.model.transformer import Transformer

#: A ridge where all is zero.
TINY = 1e-30


@dataclass(frozen=True)
class Calibration:
    """`original`: the model as it was read, before any rewrite. `batches`: a fresh iterator over the calibration
    inputs at each call. `note`: told what a rewrite found out, for the log and the report."""

    original: Transformer
    batches: Callable[[], Iterator[dict[str, Tensor]]]
    note: Callable[[str], None]


#: Maps a block, what half of it sees (B,N,D) and the sequences' context to regressors (B,N,I).
Features = Callable[[int, Tensor, Context], Tensor]


@dataclass(frozen=True)
class AffineFit:
    """y ~ x B + c. `fvu`: fraction of the variance of y that stays unexplained."""

    weight_IO: Tensor
    bias_O: Tensor
    fvu: float


class Moments:
    """Sums of x, y, x x^T, x y^T and |y|^2 over tokens, in float64: all that least squares needs."""

    def __init__(self) -> None:
        self.count = 0
        self.x_I: Tensor | None = None
        self.y_O: Tensor
        self.xx_II: Tensor
        self.xy_IO: Tensor
        self.yy_O: Tensor

    def add(self, x_TI: Tensor, y_TO: Tensor, real_T: Tensor | None = None) -> None:
        """Take in a batch of tokens; of any leading shape, and only those where `real` is True if it is given."""
        if real_T is not None:
            x_TI, y_TO = x_TI[real_T], y_TO[real_T]
        x_TI, y_TO = x_TI.reshape(-1, x_TI.shape[-1]).double(), y_TO.reshape(-1, y_TO.shape[-1]).double()
        sums = x_TI.sum(0), y_TO.sum(0), x_TI.T @ x_TI, x_TI.T @ y_TO, y_TO.square().sum(0)
        self.count += x_TI.shape[0]
        if self.x_I is None:
            self.x_I, self.y_O, self.xx_II, self.xy_IO, self.yy_O = sums
            return
        for total, part in zip((self.x_I, self.y_O, self.xx_II, self.xy_IO, self.yy_O), sums, strict=True):
            total += part

    @property
    def mean_x_I(self) -> Tensor:
        assert self.x_I is not None, "no tokens were added"
        return self.x_I / self.count

    @property
    def mean_y_O(self) -> Tensor:
        return self.y_O / self.count

    @property
    def second_II(self) -> Tensor:
        """E[x x^T]."""
        return self.xx_II / self.count

    @property
    def covariance_II(self) -> Tensor:
        return self.second_II - torch.outer(self.mean_x_I, self.mean_x_I)

    @property
    def cross_IO(self) -> Tensor:
        """Cov(x, y)."""
        return self.xy_IO / self.count - torch.outer(self.mean_x_I, self.mean_y_O)

    @property
    def variance_y(self) -> float:
        """Total variance of y."""
        return float((self.yy_O / self.count - self.mean_y_O.square()).sum())

    def restricted(self, features_K: Tensor) -> Moments:
        """The same moments with only these features of x (indices (K,))."""
        assert self.x_I is not None, "no tokens were added"
        features_K = features_K.to(self.x_I.device)
        fewer = Moments()
        fewer.count, fewer.y_O, fewer.yy_O = self.count, self.y_O, self.yy_O
        fewer.x_I, fewer.xy_IO = self.x_I[features_K], self.xy_IO[features_K]
        fewer.xx_II = self.xx_II[features_K][:, features_K]
        return fewer

    def fit(self, rank: int | None = None) -> AffineFit:
        """Least squares y ~ x B + c, ridge 1e-6 of the mean variance of x; with `rank`, the best B of that rank
        (reduced-rank regression: truncated SVD of Cov(x,x)^-1/2 Cov(x,y))."""
        rounding = 1e-12 * float(self.second_II.diagonal().mean())  # all that is left of the variance of a constant x
        half_II, inverse_half_II = roots(self.covariance_II, rounding)
        whitened_IO = inverse_half_II @ self.cross_IO
        if rank is not None:
            u, s, vh = torch.linalg.svd(whitened_IO, full_matrices=False)
            whitened_IO = (u[:, :rank] * s[:rank]) @ vh[:rank]
        weight_IO = inverse_half_II @ whitened_IO
        explained = 2 * (weight_IO * self.cross_IO).sum() - (half_II @ weight_IO).square().sum()
        fvu = 1 - float(explained) / max(self.variance_y, 1e-30)
        return AffineFit(weight_IO, self.mean_y_O - self.mean_x_I @ weight_IO, fvu)


def roots(moment_II: Tensor, least: float = 0.0) -> tuple[Tensor, Tensor]:
    """C^1/2 and C^-1/2 of a symmetric positive matrix, with a ridge of 1e-6 of its mean eigenvalue, or of `least`."""
    ridge = max(1e-6 * float(moment_II.diagonal().mean()), least, TINY)
    values, vectors = torch.linalg.eigh((moment_II + moment_II.T) / 2)
    values = values.clamp(min=0) + ridge
    return (vectors * values.sqrt()) @ vectors.T, (vectors * values.rsqrt()) @ vectors.T


class _Enough(Exception):
    """Ends a forward pass whose remaining layers nobody asked for."""


def taps(
    model: Transformer, inputs: dict[str, Tensor], wanted: set[tuple[int, Site]]
) -> dict[tuple[int, Site], Tensor]:
    """The tensors at the wanted (step, site) places; the forward pass ends after the last of them."""
    seen: dict[tuple[int, Site], Tensor] = {}

    def observe(step: int, site: Site, x_BND: Tensor) -> None:
        if (step, site) in wanted:
            seen[step, site] = x_BND
            if len(seen) == len(wanted):
                raise _Enough

    with contextlib.suppress(_Enough):
        model(inputs, observe)
    return seen


def real_tokens(inputs: dict[str, Tensor], x_BND: Tensor) -> Tensor | None:
    """True at the tokens of x (B,N) that are no padding; None if all are real. A trimmed block keeps the first ones."""
    mask_BN = inputs.get("attention_mask")
    return None if mask_BN is None else mask_BN[:, : x_BND.shape[1]].bool()


def step_of(model: Transformer, block: int) -> int:
    """The first step of the schedule that runs this block."""
    return next(index for index, step in enumerate(model.structure.schedule) if step.block == block)


def original_step(calibration: Calibration, model: Transformer, step: int) -> int:
    """The step of the original whose output the model's step should come close to."""
    origin = model.structure.schedule[step].origin
    return next(index for index, other in enumerate(calibration.original.structure.schedule) if other.origin == origin)


def input_moments(model: Transformer, calibration: Calibration, blocks: list[int], site: Site) -> dict[int, Moments]:
    """Moments of what the model's blocks see at `site` (x only; y is x's first feature, unused), in one pass."""
    steps = {block: step_of(model, block) for block in blocks}
    moments = {block: Moments() for block in blocks}
    for inputs in calibration.batches():
        seen = taps(model, inputs, {(step, site) for step in steps.values()})
        for block, step in steps.items():
            x_BND = seen[step, site]
            moments[block].add(x_BND, x_BND[..., :1], real_tokens(inputs, x_BND))
    return moments


def target_moments(
    model: Transformer,
    calibration: Calibration,
    blocks: list[int],
    half: Literal["mixer", "ffn"],
    features: Features,
) -> dict[int, Moments]:
    """Moments of (features of what half a block sees, what it should give), in one pass.

    What it should give is fitted on the model's own inputs: under a pre-norm feed-forward what is missing to the
    original's output there, so that errors made before are corrected; otherwise the original half's output.
    `features(block, x, context)` maps the half's input to the regressors. Padding does not count.
    """
    steps = {block: step_of(model, block) for block in blocks}
    origins = {block: original_step(calibration, model, step) for block, step in steps.items()}
    ends = output_targets(model.structure, calibration.original.structure)
    site_in: Site = "mixer.in" if half == "mixer" else "ffn.in"
    site_out: Site = "mixer.out" if half == "mixer" else "ffn.out"
    moments = {block: Moments() for block in blocks}
    for inputs in calibration.batches():
        mine = taps(model, inputs, {(step, site) for step in steps.values() for site in (site_in, site_out, "out")})
        wanted: set[tuple[int, Site]] = {(origin, site_out) for origin in origins.values()}
        theirs = taps(calibration.original, inputs, wanted | {(ends[step], "out") for step in steps.values()})
        for block, step in steps.items():
            kept = mine[step, "out"].shape[1]  # fewer than went in where a block lets only pooled tokens on
            target_BND = theirs[origins[block], site_out][:, :kept]
            if half == "ffn" and model.block(block).residual != "post":
                added_BND = mine[step, "out"] - mine[step, site_out]
                target_BND = theirs[ends[step], "out"][:, :kept] - added_BND
            x_BNI = features(block, mine[step, site_in], model.embed(inputs)[1])[:, :kept]
            moments[block].add(x_BNI, target_BND, real_tokens(inputs, target_BND))
    return moments
