"""pool-tokens: behind a block each cell of neighbouring patches becomes one token."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean
from typing import Any

from pydantic import Field, NonNegativeInt

from compress.model.block import BlockSpec
from compress.model.embeds.patch import PatchEmbedSpec
from compress.model.mixers.linformer import LinformerSpec
from compress.model.mixers.packed_attention import PackedAttentionSpec
from compress.model.reducers.grid_mean import GridMeanSpec
from compress.model.rope import GridRopeSpec
from compress.model.structure import Structure
from compress.model.transformer import Transformer
from compress.rewrites.calibration import Calibration, step_of
from compress.rewrites.rewrite import Options, rewrite
from compress.rewrites.search_range import SearchRange
from compress.rewrites.surgery import with_blocks
from targets.errors import InputError

NAME = "pool-tokens"


class PoolTokens(Options):
    """`after`: the layer behind which patches are pooled, from 0. `size`: patches a side of the cells."""

    after: NonNegativeInt = Field(examples=[0])
    size: int = Field(default=2, ge=2)


def _places(structure: Structure) -> Iterator[dict[str, Any]]:
    """Behind the middle, then earlier and later."""
    count = len(structure.blocks)
    yield from ({"after": place} for place in dict.fromkeys((count // 2 - 1, count // 4, 2 * count // 3)) if place >= 0)


@rewrite(NAME, PoolTokens, search=SearchRange(("tokens",), _places))
def pool_tokens(model: Transformer, options: PoolTokens, calibration: Calibration) -> Transformer:
    """Let the mean of each `size` x `size` cell of patches go on behind a layer, and the class token as it is.

    All later layers work on 1 / size^2 of the patches: their products shrink by as much, their attention's scores by
    the square of it. Shapes stay fixed and nothing is sorted, so every runtime gains. No parameter changes. Not exact;
    wants healing. A second pooling behind a later layer is possible. Refused where the cells do not fill the grid (7 x
    7 patches have no cells of 2 x 2), for texts, for heads that answer for every token, behind a trimmed or a looped
    block, and before layers that take a fixed number of tokens (Linformer) or add a bias for where patches lie. Rotary
    places of a grid are averaged as the patches are. Source: the pooling of PiT
    (Heo et al. 2021, arXiv 2103.16302), put into a trained model and as a mean.
    """
    structure = model.structure
    count = len(structure.blocks)
    if options.after >= count - 1:
        raise InputError(f"{NAME}: after must be a layer with another one behind it, 0 to {count - 2}")
    if structure.head.each_token:
        raise InputError(f"{NAME} is refused: the head of this model answers for every token")
    spec = structure.blocks[options.after]
    if spec.loops > 1:
        raise InputError(f"{NAME} is refused behind a block that is looped {spec.loops} times; apply it before tying")
    if spec.reducer is not None:
        raise InputError(f"{NAME} is refused: fewer tokens leave layer {options.after} than come in already")
    step = step_of(model, options.after)
    after = structure.schedule[step + 1 :]
    later = [structure.blocks[one.block] for one in after]
    if any(isinstance(one.mixer, LinformerSpec) or isinstance(one.reducer, GridMeanSpec) for one in later):
        raise InputError(f"{NAME} is refused before a layer that takes a fixed number of tokens; pool first")
    kept, rows, columns = _grid(structure, step)
    if rows % options.size or columns % options.size:
        raise InputError(
            f"{NAME} is refused: a grid of {rows} x {columns} patches does not divide into cells of {options.size} x "
            f"{options.size}; {_sizes(rows, columns)}"
        )
    reducer = GridMeanSpec(kept=kept, rows=rows, columns=columns, size=options.size)
    places = {block: _placed(structure.blocks[block], options.size) for block in {one.block for one in after}}
    left = rows * columns // options.size**2
    calibration.note(f"{NAME}: {rows * columns} patches become {left} behind layer {options.after}")
    pooled = with_blocks(model, lambda block: block.replace(reducer=reducer), [options.after])
    for block, changed in places.items():
        pooled = with_blocks(pooled, lambda _, changed=changed: changed, [block])  # type: ignore[misc]
    return pooled


def _placed(spec: BlockSpec, size: int) -> BlockSpec:
    """A block that sees the cells where their patches lay: rotary places of a grid are averaged, too. Raises InputError
    for what else says where tokens stand."""
    mixer = spec.mixer
    if spec.positions is not None:
        raise InputError(f"{NAME} is refused before a layer that adds positions of its own")
    if getattr(mixer, "bias", None) is not None and not isinstance(mixer, PackedAttentionSpec):
        raise InputError(f"{NAME} is refused before a layer that adds a bias for where patches lie")
    holder = getattr(mixer, "scores", mixer)
    rope = getattr(holder, "rope", None)
    if mixer is None or holder is None or rope is None:
        return spec
    if not isinstance(rope, GridRopeSpec):
        raise InputError(f"{NAME} is refused before a layer that turns tokens by their number, not by where they lie")
    lines = (rope.row_places, rope.column_places)
    rows, columns = (tuple(fmean(line[at : at + size]) for at in range(0, len(line), size)) for line in lines)
    turned = holder.replace(rope=rope.replace(row_places=rows, column_places=columns))
    return spec.replace(mixer=turned if holder is mixer else mixer.replace(scores=turned))


def _grid(structure: Structure, step: int) -> tuple[int, int, int]:
    """Tokens in front of the patches, rows and columns of the patches that go into a step."""
    embed = structure.embed
    if not isinstance(embed, PatchEmbedSpec):
        raise InputError(f"{NAME} is refused: it pools the patches of images, and this model has none")
    rows, columns = embed.grid
    for before in structure.schedule[:step]:
        reducer = structure.blocks[before.block].reducer
        if isinstance(reducer, GridMeanSpec):
            rows, columns = rows // reducer.size, columns // reducer.size
        elif reducer is not None:
            raise InputError(f"{NAME} is refused behind a block that not all patches leave; pool before trimming")
    return embed.prefix_tokens, rows, columns


def _sizes(rows: int, columns: int) -> str:
    sizes = [size for size in range(2, min(rows, columns) + 1) if not rows % size and not columns % size]
    return f"sizes that do: {', '.join(map(str, sizes))}" if sizes else "no size does"
