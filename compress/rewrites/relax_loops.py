"""relax-loops: give the loops of tied blocks something of their own to learn."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, model_validator

from compress.model.block import BlockSpec
from compress.model.norms import NormSpec
from compress.model.per_loop import PerLoopSpec
from compress.model.transformer import Transformer
from compress.rewrites.calibration import Calibration
from compress.rewrites.rewrite import Options, rewrite
from compress.rewrites.surgery import grown
from targets.errors import InputError

NAME = "relax-loops"


class RelaxLoops(Options):
    """At least one of: `delta_rank` of low-rank deltas on every map (`ffn_delta_rank` on those of the feed-forward,
    where that is to be another), `signal_rank` of level signals on Q, K, V and the
    feed-forward's input, `timestep` gains."""

    delta_rank: NonNegativeInt = Field(default=0, examples=[2])
    ffn_delta_rank: NonNegativeInt | None = None
    signal_rank: NonNegativeInt = 0
    timestep: bool = False

    @model_validator(mode="after")
    def _something_is_asked_for(self) -> RelaxLoops:
        if not (self.delta_rank or self.ffn_delta_rank or self.signal_rank or self.timestep):
            raise ValueError("expected a delta_rank or signal_rank above 0, or timestep = true")
        return self


@rewrite(NAME, RelaxLoops, exact=True)
def relax_loops(model: Transformer, options: RelaxLoops, calibration: Calibration) -> Transformer:
    """Add low-rank deltas, level signals or timestep gains to every looped block, so that its loops can differ.

    All start so that nothing changes (products of noise and zero, gains of one): for healing to learn, also for models
    that were trained tied (ALBERT). `tie-layers` fits them to the layers that it ties instead. Exact. Refused for a
    model without loops, for blocks that have such parts already, and for timestep gains in post-norm blocks. Source:
    see `compress.model.per_loop`.
    """
    looped = [block for block, spec in enumerate(model.structure.blocks) if spec.loops > 1]
    if not looped:
        raise InputError(f"{NAME} is refused: no block of this model is looped; use tie-layers first")
    own = PerLoopSpec(**options.model_dump())
    return grown(model, lambda spec: relaxed(spec, own, NAME), looped)


def relaxed(spec: BlockSpec, own: PerLoopSpec, rewrite: str) -> BlockSpec:
    """The block's spec with these parts of each loop's own. Raises InputError if it cannot have them."""
    if spec.per_loop != PerLoopSpec():
        raise InputError(f"{rewrite} is refused: the loops of a block have parts of their own already")
    if not own.timestep:
        return spec.replace(per_loop=own)
    if spec.residual != "pre":
        raise InputError(f"{rewrite} is refused: timestep gains need pre-norm blocks")
    mixer_norm, ffn_norm = (with_gains(norm) for norm in (spec.mixer_norm, spec.ffn_norm))
    return spec.replace(per_loop=own, mixer_norm=mixer_norm, ffn_norm=ffn_norm)


def with_gains(norm: NormSpec | None) -> NormSpec | None:
    """The norm with gains; folded ones come back as ones, without offsets."""
    return norm if norm is None or norm.affine else norm.replace(affine=True, bias=False)
