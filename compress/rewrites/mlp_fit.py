"""What the rewrites of feed-forwards share: fit each chosen one on the student's own inputs, one after the other."""

from __future__ import annotations

from collections.abc import Callable

from compress.model.block import BlockSpec
from compress.model.ffn import Ffn, FfnSpec
from compress.model.transformer import Transformer
from compress.rewrites.calibration import AffineFit, Calibration, Fitting, target_moments
from compress.rewrites.layers import Layers, resolve
from compress.rewrites.surgery import single_loop, with_blocks
from targets.errors import InputError


def replace_ffns(
    name: str,
    model: Transformer,
    layers: Layers,
    calibration: Calibration,
    spec: FfnSpec,
    fit: Callable[[Fitting], AffineFit],
    fill: Callable[[Ffn, AffineFit], None],
    rank: Callable[[Fitting], float] | None = None,
) -> Transformer:
    """Put `spec` in place of the chosen feed-forwards. `fit` makes a map from the moments of (what the feed-forward
    sees, what it should give), `fill` writes it into the new module; "auto:K" ranks by `rank` of the unweighted
    moments, or else by what a fit leaves unexplained of sequences that it has not seen, beside the residual stream
    behind the layer.

    Raises InputError if a chosen layer has no feed-forward or is looped.
    """

    def moments_of(model: Transformer, blocks: list[int], power: float = 2.0) -> dict[int, Fitting]:
        return target_moments(model, calibration, blocks, "ffn", lambda block, x_BND, context: x_BND, power)

    def check(old: BlockSpec) -> None:
        single_loop(old, name)
        if old.ffn is None:
            raise InputError(f"{name} is refused: a chosen layer has no feed-forward")

    def scores(blocks: list[int]) -> dict[int, float]:
        if rank is not None:
            return {block: rank(moments) for block, moments in moments_of(model, blocks, power=0.0).items()}
        found = moments_of(model, blocks, power=1.0)
        return {block: moments.relative(fit(moments)) for block, moments in found.items()}

    def change(model: Transformer, block: int) -> tuple[Transformer, AffineFit]:
        found = fit(moments_of(model, [block])[block])
        result = with_blocks(model, lambda old: old.replace(ffn=spec), [block])
        ffn = result.block(block).ffn
        assert ffn is not None
        fill(ffn, found)
        return result, found

    return change_in_turn(name, model, resolve(layers, model, check, scores), calibration, change)


def change_in_turn(
    name: str,
    model: Transformer,
    blocks: list[int],
    calibration: Calibration,
    change: Callable[[Transformer, int], tuple[Transformer, AffineFit]],
) -> Transformer:
    """Change the feed-forwards of these blocks in turn, so that each sees the errors of the earlier ones and corrects
    them. Notes what each fit leaves unexplained."""
    for block in blocks:
        model, fit = change(model, block)
        calibration.note(f"{name}: layer {block} leaves {fit.fvu:.1%} of its feed-forward unexplained")
    return model
