"""Fits that the rewrites of values share: attention's output as a function of what its heads see.

B batch, N tokens, D hidden size, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compress.model.attention import attend, join_heads, split_heads
from compress.model.sequence import Context, aligned
from compress.model.transformer import Transformer
from compress.model.values.blended import Blended, BlendedSpec
from compress.model.values.projected import ProjectedValues
from compress.rewrites.calibration import (
    AffineFit,
    Calibration,
    Moments,
    input_moments,
    original_step,
    roots,
    step_of,
    taps,
    target_moments,
)
from compress.rewrites.surgery import EVERY, attention, attention_spec, value_output_HDD, with_blocks


def annealed(before: Transformer, after: Transformer, block: int) -> Transformer:
    """The rewritten model with the old values still beside the new ones, for healing to fade over."""
    old, new = (attention_spec(model.structure.blocks[block], "annealing", EVERY).values for model in (before, after))
    result = with_blocks(
        after,
        lambda spec: spec.replace(
            mixer=attention_spec(spec, "annealing", EVERY).replace(values=BlendedSpec(old=old, new=new))
        ),
        [block],
    )
    values = attention(result.block(block)).values
    assert isinstance(values, Blended)
    values.old.load_state_dict(attention(before.block(block)).values.state_dict())
    values.new.load_state_dict(attention(after.block(block)).values.state_dict())
    values.share.zero_()
    return result


def head_views(model: Transformer, block: int, x_BND: Tensor, context: Context) -> Tensor:
    """z_h = A_h x (B,H,N,D): the tokens as each head's attention averages them."""
    mixer = attention(model.block(block))
    return mixer.attention(x_BND, 0, context) @ x_BND[:, None]


def importance(model: Transformer, calibration: Calibration, block: int) -> Tensor:
    """Weights of the heads (H,), summing to 1: the nuclear norms of C^1/2 Wv_h Wo_h."""
    half_DD, _ = roots(input_moments(model, calibration, [block], "mixer.in")[block].second_II)
    norms_H = torch.linalg.svdvals(half_DD @ value_output_HDD(attention(model.block(block)))).sum(dim=1)
    return norms_H / norms_H.sum()


def fit_projection(model: Transformer, calibration: Calibration, block: int, weights_H: Tensor) -> AffineFit:
    """Least squares of the original's attention output on z = sum_h w_h A_h x."""

    def mean_of_heads(block: int, x_BND: Tensor, context: Context) -> Tensor:
        return torch.einsum("h,bhnd->bnd", weights_H.to(x_BND), head_views(model, block, x_BND, context))

    return target_moments(model, calibration, [block], "mixer", mean_of_heads)[block].whole.fit()


def head_moments(model: Transformer, calibration: Calibration, blocks: list[int]) -> dict[int, Moments]:
    """Moments of (all heads' outputs side by side (H*V), the original's attention output)."""

    def outputs(block: int, x_BND: Tensor, context: Context) -> Tensor:
        mixer = attention(model.block(block))
        assert isinstance(mixer.values, ProjectedValues)
        q_BHNK, k_BGNK, look = mixer.looking(x_BND, 0, context)
        v_BGNV = split_heads(mixer.values.value(x_BND, 0), mixer.values.num_kv_heads)
        return join_heads(attend(q_BHNK, k_BGNK, v_BGNV, look))

    found = target_moments(model, calibration, blocks, "mixer", outputs)
    return {block: fitting.whole for block, fitting in found.items()}


@dataclass(frozen=True)
class GateFit:
    """y ~ sum_h a_h * z_h + b with z_h = A_h x. `gates`: a (H,) or, as diagonals, (H,D). `mean_HD`: E[z_h].
    `fvu`: fraction of the variance of y that stays unexplained."""

    gates: Tensor
    offset_D: Tensor
    mean_HD: Tensor
    fvu: float


def fit_gates(model: Transformer, calibration: Calibration, block: int, diagonal: bool) -> GateFit:
    """Gates of the heads, or `diagonal` ones, that come closest to the original's attention output."""
    step = step_of(model, block)
    origin = original_step(calibration, model, step)
    count = 0
    sums: tuple[Tensor, ...] | None = None
    for inputs in calibration.batches():
        mine = taps(model, inputs, {(step, "mixer.in"), (step, "mixer.out")})
        theirs = taps(calibration.original, inputs, {(origin, "mixer.out")})
        seen, given = mine[step, "mixer.in"], mine[step, "mixer.out"]
        y_BND = aligned(theirs[origin, "mixer.out"], given.context).double()
        z_BHND = head_views(model, block, *seen)[:, :, : y_BND.shape[1]].double()  # asked of the first alone
        real_BN = given.real_BN
        if real_BN is None:
            real_BN = torch.ones(y_BND.shape[:2], dtype=torch.bool, device=y_BND.device)
        y_TD, z_HTD = y_BND[real_BN], z_BHND.transpose(0, 1)[:, real_BN]
        parts = (
            z_HTD.sum(1),
            y_TD.sum(0),
            torch.einsum("htd,gtd->dhg", z_HTD, z_HTD),
            torch.einsum("htd,td->dh", z_HTD, y_TD),
            y_TD.square().sum(0),
        )
        count += y_TD.shape[0]
        sums = parts if sums is None else tuple(total + part for total, part in zip(sums, parts, strict=True))
    assert sums is not None, "no calibration inputs"
    mean_HD, mean_D = sums[0] / count, sums[1] / count
    gram_DHH = sums[2] / count - torch.einsum("hd,gd->dhg", mean_HD, mean_HD)
    cross_DH = sums[3] / count - mean_HD.T * mean_D[:, None]
    variance = float((sums[4] / count - mean_D.square()).sum())
    if not diagonal:
        gram_DHH, cross_DH = gram_DHH.sum(0, keepdim=True), cross_DH.sum(0, keepdim=True)
    ridge = 1e-6 * gram_DHH.diagonal(dim1=1, dim2=2).mean(dim=1)
    eye_HH = torch.eye(gram_DHH.shape[1], dtype=torch.float64, device=gram_DHH.device)
    gates_DH = torch.linalg.solve(gram_DHH + ridge[:, None, None] * eye_HH, cross_DH)
    explained = 2 * (gates_DH * cross_DH).sum() - torch.einsum("dh,dhg,dg->", gates_DH, gram_DHH, gates_DH)
    gates = gates_DH.T if diagonal else gates_DH[0]
    offset_D = mean_D - (gates.reshape(len(eye_HH), -1) * mean_HD).sum(0)
    return GateFit(gates, offset_D, mean_HD, 1 - float(explained) / max(variance, 1e-30))
