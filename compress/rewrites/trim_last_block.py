"""trim-last-block: the last block works only on the tokens that the head reads."""

from __future__ import annotations

from compress.model.reducers.first import FirstSpec
from compress.model.transformer import Transformer
from compress.rewrites.calibration import Calibration
from compress.rewrites.rewrite import Options, rewrite
from compress.rewrites.surgery import single_loop, with_blocks
from targets.errors import InputError

NAME = "trim-last-block"


class TrimLastBlock(Options):
    """No options: how many tokens stay follows from the head."""


@rewrite(NAME, TrimLastBlock, exact=True, on_export=True)
def trim_last_block(model: Transformer, options: TrimLastBlock, calibration: Calibration) -> Transformer:
    """Let the last block ask, mix and feed only the tokens that the head pools (cls), keys and values being all.

    With a cls head nothing reads the other tokens after the last attention, so N - 1 of N queries, output
    projections and feed-forwards are work for nothing. Exact, no parameter changes. Refused where the head averages
    all tokens and for a last block that is looped.
    """
    tokens = model.structure.head.tokens
    if tokens is None:
        raise InputError(f"{NAME} is refused: the head of this model reads every token")
    last = model.structure.schedule[-1].block
    single_loop(model.structure.blocks[last], NAME)
    return with_blocks(model, lambda spec: spec.replace(reducer=FirstSpec(count=tokens)), [last])
