"""Calibration: streams of the user's inputs through the original and the model at hand, and the moments kept of them.

Only sums are kept, never whole activations. T tokens of a batch, I inputs and O outputs of a map.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from compress.model.block import Site
from compress.model.sequence import Context, Tokens, aligned
from compress.model.structure import check_width, output_targets
from compress.model.transformer import Transformer

#: A ridge where all is zero.
TINY = 1e-30
#: Ridges that a fit chooses from, as parts of the mean variance of x; with the last it is the mean of y.
RIDGES = (1e-6, 1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 10.0, 1e6)
#: What norms add to the mean square of a token.
NORM_EPS = 1e-6


@dataclass(frozen=True)
class Calibration:
    """`original`: the model as it was read, before any rewrite. `batches`: a fresh iterator over the calibration
    inputs at each call. `note`: told what a rewrite found out, for the log and the report. `every`: all of the user's
    inputs that may be learned from, for a rewrite that counts them and runs no model; None where `batches` are all."""

    original: Transformer
    batches: Callable[[], Iterator[dict[str, Tensor]]]
    note: Callable[[str], None]
    every: Callable[[], Iterator[dict[str, Tensor]]] | None = None


#: Maps a block, what half of it sees (B,N,D) and the sequences' context to regressors (B,N,I).
Features = Callable[[int, Tensor, Context], Tensor]


@dataclass(frozen=True)
class AffineFit:
    """y ~ x B + c. `fvu`: fraction of the variance of y that stays unexplained."""

    weight_IO: Tensor
    bias_O: Tensor
    fvu: float


class Moments:
    """Weighted sums of x, y, x x^T, x y^T and |y|^2 over tokens, in float64: all that least squares needs."""

    def __init__(self) -> None:
        self.count = 0.0
        self.x_I: Tensor | None = None
        self.y_O: Tensor
        self.xx_II: Tensor
        self.xy_IO: Tensor
        self.yy_O: Tensor

    def add(self, x_TI: Tensor, y_TO: Tensor, real_T: Tensor | None = None, weight_T: Tensor | None = None) -> None:
        """Take in a batch of tokens; of any leading shape, and only those where `real` is True if it is given. Each
        counts as `weight` says, or as one."""
        if real_T is not None:
            x_TI, y_TO, weight_T = x_TI[real_T], y_TO[real_T], None if weight_T is None else weight_T[real_T]
        x_TI, y_TO = x_TI.reshape(-1, x_TI.shape[-1]).double(), y_TO.reshape(-1, y_TO.shape[-1]).double()
        weight_T1 = torch.ones_like(x_TI[:, :1]) if weight_T is None else weight_T.reshape(-1, 1).double()
        xw_TI, yw_TO = x_TI * weight_T1, y_TO * weight_T1
        sums = xw_TI.sum(0), yw_TO.sum(0), xw_TI.T @ x_TI, xw_TI.T @ y_TO, (yw_TO * y_TO).sum(0)
        self.count += float(weight_T1.sum())
        if self.x_I is None:
            self.x_I, self.y_O, self.xx_II, self.xy_IO, self.yy_O = sums
            return
        for total, part in zip((self.x_I, self.y_O, self.xx_II, self.xy_IO, self.yy_O), sums, strict=True):
            total += part

    def __add__(self, other: Moments) -> Moments:
        """Moments of the tokens of both."""
        both = Moments()
        both.count = self.count + other.count
        assert self.x_I is not None and other.x_I is not None, "no tokens were added"
        both.x_I, both.y_O, both.yy_O = self.x_I + other.x_I, self.y_O + other.y_O, self.yy_O + other.yy_O
        both.xx_II, both.xy_IO = self.xx_II + other.xx_II, self.xy_IO + other.xy_IO
        return both

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

    def fit(self, rank: int | None = None, ridge: float = RIDGES[0]) -> AffineFit:
        """Least squares y ~ x B + c with a ridge, as a part of the mean variance of x; with `rank`, the best B of that
        rank (reduced-rank regression: truncated SVD of Cov(x,x)^-1/2 Cov(x,y))."""
        return self.fits((ridge,), rank)[0]

    def fits(self, ridges: Sequence[float], rank: int | None = None) -> list[AffineFit]:
        """A fit for each ridge."""
        values_I, vectors_II = torch.linalg.eigh((self.covariance_II + self.covariance_II.T) / 2)
        rounding = 1e-12 * float(self.second_II.diagonal().mean())  # all that is left of the variance of a constant x
        mean, turned_IO = float(values_I.clamp(min=0).mean()), vectors_II.T @ self.cross_IO
        found = []
        for ridge in ridges:
            root_I1 = (values_I.clamp(min=0) + max(ridge * mean, rounding, TINY)).sqrt()[:, None]
            whitened_IO = turned_IO / root_I1
            if rank is not None:
                u, s, vh = torch.linalg.svd(whitened_IO, full_matrices=False)
                whitened_IO = (u[:, :rank] * s[:rank]) @ vh[:rank]
            weight_IO = vectors_II @ (whitened_IO / root_I1)
            bias_O = self.mean_y_O - self.mean_x_I @ weight_IO
            found.append(AffineFit(weight_IO, bias_O, self.unexplained(weight_IO, bias_O)))
        return found

    def unexplained(self, weight_IO: Tensor, bias_O: Tensor) -> float:
        """E|y - x B - c|^2 as a part of the variance of y."""
        off_O = self.mean_y_O - self.mean_x_I @ weight_IO - bias_O
        explained = 2 * (weight_IO * self.cross_IO).sum() - (weight_IO * (self.covariance_II @ weight_IO)).sum()
        return 1 - float(explained - off_O.square().sum()) / max(self.variance_y, 1e-30)


class Fitting:
    """Moments of (x, y) for a fit that holds on texts or images that it has not seen.

    A token counts 1 / s^power, s its root mean square in the residual stream that the error is added to: what comes
    behind normalizes the stream, so with power 2 all tokens' relative errors count alike. Without weights the few
    tokens of massive activations (Sun et al. 2024, arXiv 2402.17762), thousands of times larger than all others, would
    own the fit. With power 1 they keep a say, as a ranking of layers needs: they are what attention rests on.
    Every other sequence goes to either half; the ridge is the one whose fit on one half explains the other best.
    """

    def __init__(self, power: float = 2.0) -> None:
        self.power, self.sequences, self.stream = power, 0, 0.0
        self.halves = (Moments(), Moments())

    @property
    def whole(self) -> Moments:
        """Moments of all tokens."""
        return self.halves[0] if self.sequences < 2 else self.halves[0] + self.halves[1]

    def add(self, x_BNI: Tensor, y_BNO: Tensor, stream_BND: Tensor, real_BN: Tensor | None = None) -> None:
        """Take in a batch of sequences."""
        square_BN = stream_BND.double().square().mean(dim=-1) + NORM_EPS
        weight_BN = square_BN ** (-self.power / 2)
        if real_BN is None:
            real_BN = torch.ones_like(weight_BN, dtype=torch.bool)
        half_B1 = (torch.arange(self.sequences, self.sequences + len(x_BNI), device=x_BNI.device) % 2)[:, None]
        for half, moments in enumerate(self.halves[: self.sequences + len(x_BNI)]):
            moments.add(x_BNI, y_BNO, real_BN & (half_B1 == half), weight_BN)
        self.sequences += len(x_BNI)
        self.stream += float((weight_BN * square_BN)[real_BN].sum()) * stream_BND.shape[-1]

    def fit(self, rank: int | None = None) -> AffineFit:
        """The fit on all tokens; `fvu` is that of the halves, each explained by the fit on the other. One sequence
        alone has the least ridge and its own `fvu`."""
        if self.sequences < 2:
            return self.whole.fit(rank)
        fvu, ridge = min(zip(self._crossed(RIDGES), RIDGES, strict=True))
        fit = self.whole.fit(rank, ridge)
        return replace(fit, fvu=fvu if rank is None else self._crossed((ridge,), rank)[0])

    def relative(self, fit: AffineFit) -> float:
        """What the fit leaves unexplained, as a part of the stream that it is added to."""
        whole = self.whole
        return fit.fvu * whole.variance_y * whole.count / self.stream

    def _crossed(self, ridges: Sequence[float], rank: int | None = None) -> list[float]:
        """For each ridge the mean `fvu` of the halves, each explained by the fit on the other."""
        first, second = self.halves
        pairs = zip(first.fits(ridges, rank), second.fits(ridges, rank), strict=True)
        return [
            (second.unexplained(one.weight_IO, one.bias_O) + first.unexplained(other.weight_IO, other.bias_O)) / 2
            for one, other in pairs
        ]


def roots(moment_II: Tensor, least: float = 0.0) -> tuple[Tensor, Tensor]:
    """C^1/2 and C^-1/2 of a symmetric positive matrix, with a ridge of 1e-6 of its mean eigenvalue, or of `least`."""
    ridge = max(1e-6 * float(moment_II.diagonal().mean()), least, TINY)
    values, vectors = torch.linalg.eigh((moment_II + moment_II.T) / 2)
    values = values.clamp(min=0) + ridge
    return (vectors * values.sqrt()) @ vectors.T, (vectors * values.rsqrt()) @ vectors.T


def truncated(moment_II: Tensor, weight_IO: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A (I,R) and B (R,O) with the least E|u (A B - W)|^2, E[u u^T] = C: the truncated SVD of C^1/2 W, its root on both
    sides. W may have leading dimensions (heads), each with an A and a B of its own."""
    half_II, inverse_II = roots(moment_II)
    u, s, vh = torch.linalg.svd(half_II @ weight_IO, full_matrices=False)
    root_R = s[..., :rank].sqrt()
    return inverse_II @ (u[..., :rank] * root_R[..., None, :]), root_R[..., None] * vh[..., :rank, :]


class _Enough(Exception):
    """Ends a forward pass whose remaining layers nobody asked for."""


def taps(
    model: Transformer, inputs: dict[str, Tensor], wanted: set[tuple[int, Site]]
) -> dict[tuple[int, Site], Tokens]:
    """The tokens at the wanted (step, site) places; the forward pass ends after the last of them."""
    seen: dict[tuple[int, Site], Tokens] = {}

    def observe(step: int, site: Site, tokens: Tokens) -> None:
        if (step, site) in wanted:
            seen[step, site] = tokens
            if len(seen) == len(wanted):
                raise _Enough

    with contextlib.suppress(_Enough):
        model(inputs, observe)
    return seen


def step_of(model: Transformer, block: int) -> int:
    """The first step of the schedule that runs this block."""
    return next(index for index, step in enumerate(model.structure.schedule) if step.block == block)


def original_step(calibration: Calibration, model: Transformer, step: int) -> int:
    """The step of the original whose output the model's step should come close to. Raises InputError if their streams
    are of different sizes."""
    check_width(model.structure, calibration.original.structure)
    origin = model.structure.schedule[step].origin
    return next(index for index, other in enumerate(calibration.original.structure.schedule) if other.origin == origin)


def input_moments(model: Transformer, calibration: Calibration, blocks: list[int], site: Site) -> dict[int, Moments]:
    """Moments of what the model's blocks see at `site` (x only; y is x's first feature, unused), in one pass."""
    steps = {block: step_of(model, block) for block in blocks}
    moments = {block: Moments() for block in blocks}
    for inputs in calibration.batches():
        seen = taps(model, inputs, {(step, site) for step in steps.values()})
        for block, step in steps.items():
            tokens = seen[step, site]
            moments[block].add(tokens.x_BND, tokens.x_BND[..., :1], tokens.real_BN)
    return moments


def target_moments(
    model: Transformer,
    calibration: Calibration,
    blocks: list[int],
    half: Literal["mixer", "ffn"],
    features: Features,
    power: float = 0.0,
) -> dict[int, Fitting]:
    """Moments of (features of what half a block sees, what it should give), in one pass; `power` as in `Fitting`.

    What it should give is fitted on the model's own inputs: under a pre-norm feed-forward what is missing to the
    original's output there, so that errors made before are corrected; otherwise the original half's output.
    `features(block, x, context)` maps the half's input to the regressors. Padding does not count.
    """
    steps = {block: step_of(model, block) for block in blocks}
    origins = {block: original_step(calibration, model, step) for block, step in steps.items()}
    ends = output_targets(model.structure, calibration.original.structure)
    site_in: Site = "mixer.in" if half == "mixer" else "ffn.in"
    site_out: Site = "mixer.out" if half == "mixer" else "ffn.out"
    moments = {block: Fitting(power) for block in blocks}
    for inputs in calibration.batches():
        mine = taps(model, inputs, {(step, site) for step in steps.values() for site in (site_in, site_out, "whole")})
        wanted: set[tuple[int, Site]] = {(origin, site_out) for origin in origins.values()}
        theirs = taps(calibration.original, inputs, wanted | {(ends[step], "whole") for step in steps.values()})
        for block, step in steps.items():
            seen, given = mine[step, site_in], mine[step, "whole"]
            stream_BND = aligned(theirs[ends[step], "whole"], given.context)
            if half == "ffn" and model.block(block).residual != "post":
                target_BND = stream_BND - (given.x_BND - mine[step, site_out].x_BND)
            else:
                target_BND = aligned(theirs[origins[block], site_out], given.context)
            x_BNI = aligned(Tokens(features(block, *seen), seen.context), given.context)
            moments[block].add(x_BNI, target_BND, stream_BND, given.real_BN)
    return moments
