"""affine-patch: a run of blocks becomes one affine map. B batch, N tokens, D hidden size."""

from __future__ import annotations

from pydantic import Field

from compress.model.block import BlockSpec
from compress.model.ffns.affine import Affine, AffineSpec
from compress.model.sequence import aligned
from compress.model.structure import Step, output_targets
from compress.model.transformer import Transformer
from compress.rewrites.calibration import Calibration, Fitting, taps
from compress.rewrites.layers import Layers
from compress.rewrites.rewrite import Options, rewrite
from compress.rewrites.surgery import rebuilt, single_loop
from targets.errors import InputError

NAME = "affine-patch"


class AffinePatch(Options):
    """`layers`: consecutive layers, or "auto:K" for the run of K that an affine map explains best."""

    layers: Layers = Field(examples=[[0]])


@rewrite(NAME, AffinePatch)
def affine_patch(model: Transformer, options: AffinePatch, calibration: Calibration) -> Transformer:
    """Replace a run of blocks by x + x B + c: D^2 + D numbers in place of all of theirs.

    B = Cov(x,x)^-1 Cov(x,y), c = E y - E x B, with x what goes into the run and y what is missing to what the original
    gives behind it, over the calibration tokens, each weighted by 1 / |what the original gives|^2, with the ridge that
    serves unseen sequences best (a large one leaves drop-blocks and a constant). No token sees another there any more.
    Not exact: the baseline beside drop-blocks that tied layers must beat. Refused for looped and for trimmed blocks.
    """
    for spec in model.structure.blocks:
        single_loop(spec, NAME)
    runs = _runs(options.layers, model)
    moments = _moments(model, calibration, runs)
    fits = {run: one.fit() for run, one in moments.items()}
    first, last = min(runs, key=lambda run: moments[run].relative(fits[run]))
    fit = fits[first, last]
    calibration.note(f"{NAME}: layers {first} to {last} leave {fit.fvu:.1%} of what they add unexplained")
    kept = [step for step in range(len(model.structure.schedule)) if not first < step <= last]
    old = model.structure
    patch = BlockSpec(mixer=None, mixer_norm=None, ffn=AffineSpec(), ffn_norm=None)
    structure = old.replace(
        blocks=tuple(patch if step == first else old.blocks[old.schedule[step].block] for step in kept),
        schedule=tuple(Step(block=index, origin=old.schedule[step].origin) for index, step in enumerate(kept)),
    )
    result = rebuilt(model, structure, {index: old.schedule[step].block for index, step in enumerate(kept)})
    ffn = result.block(first).ffn
    assert isinstance(ffn, Affine)
    ffn.map.set(fit.weight_IO.T.float(), fit.bias_O.float())
    return result


def _runs(layers: Layers, model: Transformer) -> list[tuple[int, int]]:
    """The runs (first and last step) to choose from."""
    count = len(model.structure.schedule)
    if isinstance(layers, str):
        length = count if layers == "all" else int(layers.removeprefix("auto:"))
        if length > count:
            raise InputError(f"{NAME}: layers {layers!r} asks for more than the {count} layers of the model")
        runs = [(first, first + length - 1) for first in range(count - length + 1)]
    else:
        runs = [(min(layers), max(layers))]
        if runs[0][0] < 0 or runs[0][1] >= count or runs[0][1] - runs[0][0] + 1 != len(layers):
            raise InputError(
                f"{NAME}: layers must follow one another and be among 0 to {count - 1}; got {list(layers)}"
            )
    specs = model.structure.blocks
    keeping = [
        run for run in runs if all(specs[model.structure.schedule[step].block].reducer is None for step in _in(run))
    ]
    if not keeping:
        raise InputError(
            f"{NAME} is refused: fewer tokens leave a block of the run than come in; apply it before trimming"
        )
    return keeping


def _in(run: tuple[int, int]) -> range:
    return range(run[0], run[1] + 1)


def _moments(
    model: Transformer, calibration: Calibration, runs: list[tuple[int, int]]
) -> dict[tuple[int, int], Fitting]:
    """Moments of (what goes into each run, what is missing to what the original gives behind it), in one pass."""
    targets = output_targets(model.structure, calibration.original.structure)
    moments = {run: Fitting() for run in runs}
    for inputs in calibration.batches():
        mine = taps(model, inputs, {(first - 1, "out") for first, _ in runs if first})
        theirs = taps(calibration.original, inputs, {(targets[last], "out") for _, last in runs})
        for first, last in runs:
            before = mine[first - 1, "out"] if first else model.begun(inputs)
            y_BND = aligned(theirs[targets[last], "out"], before.context)
            moments[first, last].add(before.x_BND, y_BND - before.x_BND, y_BND, before.real_BN)
    return moments
