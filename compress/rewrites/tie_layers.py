"""tie-layers: one block in place of several layers, run once for each of them."""

from __future__ import annotations

import re
from typing import Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt

from compress.model.block import BlockSpec
from compress.model.per_loop import PerLoopSpec
from compress.model.structure import Step
from compress.model.transformer import Transformer
from compress.rewrites.calibration import Calibration
from compress.rewrites.loop_fit import fit_loop, layer_maps, projections, shared_weight
from compress.rewrites.relax_loops import relaxed, with_gains
from compress.rewrites.rewrite import Options, rewrite
from compress.rewrites.surgery import grown, rebuilt, single_loop
from targets.errors import InputError

NAME = "tie-layers"


class TieLayers(Options):
    """`grouping` of the layers into blocks: "middle" leaves `untied` layers at each end alone and cycles `blocks`
    shared blocks between them; "cycle" does so over all layers (0 1 2 0 1 2); "sequence" repeats each block at once
    (0 0 0 1 1 1); a list names the block of each layer. `init`: how a shared weight starts. `delta_rank`,
    `ffn_delta_rank`, `signal_rank` and `timestep`: what each loop has of its own, as in `relax-loops`, but fitted to
    the layers."""

    grouping: Literal["middle", "cycle", "sequence"] | tuple[NonNegativeInt, ...] = Field(
        default="middle", examples=[[0, 0]]
    )
    blocks: PositiveInt = 1
    untied: NonNegativeInt = 1
    init: Literal["first", "stepwise", "mean", "data-aware"] = "data-aware"
    delta_rank: NonNegativeInt = Field(default=0, examples=[1])
    ffn_delta_rank: NonNegativeInt | None = None
    signal_rank: NonNegativeInt = 0
    timestep: bool = False


@rewrite(NAME, TieLayers)
def tie_layers(model: Transformer, options: TieLayers, calibration: Calibration) -> Transformer:
    """Tie layers into blocks that are looped; norms, gains and biases stay each layer's own.

    A shared weight starts as that of its first layer ("first"); of a layer at even steps through the tied ones
    ("stepwise"); as the mean; or as W* = (sum C_l)^-1 sum C_l W_l ("data-aware"), which minimizes
    sum_l E|u_l (W* - W_l)|^2, C_l the covariance of what layer l's map reads. What a loop has of its own is fitted to
    its layer in this order: timestep gains by least squares; level signals and low-rank deltas by the truncated SVD of
    C_l^1/2 (W_l - W*), exact at full rank; biases by the mean of what is left. Apply `fold-norm` and `align-layers`
    before. Not exact, and without deltas of no use before healing. Refused where layers of a group are built
    differently, and for models that are looped already. Source: Lan et al. 2019 (ALBERT, arXiv 1909.11942), Bae et
    al. 2024 (Relaxed Recursive Transformers, arXiv 2410.20672); the closed forms are derived here.
    """
    for spec in model.structure.blocks:
        single_loop(spec, NAME)
    layers = [step.block for step in model.structure.schedule]
    groups = [[layers[place] for place in group] for group in _groups(options, len(layers))]
    for group in groups:
        _check_alike(model, group)
    own = PerLoopSpec(**{name: getattr(options, name) for name in PerLoopSpec.model_fields})
    shared = {block: group for block, group in enumerate(groups) if len(group) > 1}
    maps = layer_maps(model, calibration, [layer for group in shared.values() for layer in group])
    sources = _sources(groups, options.init, layers)
    result = grown(_looped(model, groups, sources), lambda spec: _with_own_parts(spec, own), list(shared))
    for block, group in shared.items():
        module = result.block(block)
        for name, projection in projections(module):
            if options.init == "data-aware":
                weight_IO = shared_weight([maps[layer][name] for layer in group])
            else:
                weight_IO = torch.stack([maps[layer][name].weight_IO for layer in sources[block]]).mean(0)
            projection.weight.copy_(weight_IO.T)
        losses = [fit_loop(module, loop, maps[layer]) for loop, layer in enumerate(group)]
        lost = ", ".join(f"{loss:.0%}" for loss in losses)
        calibration.note(f"{NAME}: block {block} stands for layers {group}; their maps lose {lost} of variance")
    return result


def _groups(options: TieLayers, count: int) -> list[list[int]]:
    """The layers (places in the schedule) of each block, blocks in the order in which they first run."""
    blocks = _assignment(options, count)
    order = list(dict.fromkeys(blocks))
    groups = [[place for place, block in enumerate(blocks) if block == wanted] for wanted in order]
    if all(len(group) == 1 for group in groups):
        raise InputError(f"{NAME}: this grouping of {count} layers ties none of them; ask for fewer blocks")
    return groups


def _assignment(options: TieLayers, count: int) -> list[int]:
    """The block of each layer."""
    if not isinstance(options.grouping, str):
        if len(options.grouping) != count:
            raise InputError(f"{NAME}: grouping names {len(options.grouping)} layers; the model has {count}")
        return list(options.grouping)
    ends = options.untied if options.grouping == "middle" else 0
    core = count - 2 * ends
    if core < options.blocks:
        raise InputError(
            f"{NAME}: {options.blocks} shared blocks do not fit into the {max(core, 0)} layers "
            f"that are left of {count} between {ends} untied ones at each end"
        )
    if options.grouping == "sequence":
        return [place * options.blocks // count for place in range(count)]
    inner = [ends + place % options.blocks for place in range(core)]
    outer = [ends + options.blocks + place for place in range(ends)]
    return [*range(ends), *inner, *outer]


def _check_alike(model: Transformer, group: list[int]) -> None:
    for layer in group[1:]:
        if model.structure.blocks[layer] != model.structure.blocks[group[0]]:
            raise InputError(f"{NAME} is refused: layers {group[0]} and {layer} are built differently")


def _sources(groups: list[list[int]], init: str, layers: list[int]) -> list[list[int]]:
    """For each block the layers whose weights it starts from (their mean)."""
    if init in ("mean", "data-aware"):
        return groups
    if init == "first":
        return [group[:1] for group in groups]
    tied = [layer for layer in layers if any(layer in group and len(group) > 1 for group in groups)]
    shared = [block for block, group in enumerate(groups) if len(group) > 1]
    last = len(tied) - 1
    steps = [last // 2] if len(shared) == 1 else [index * last // (len(shared) - 1) for index in range(len(shared))]
    by_block = dict(zip(shared, (tied[step] for step in steps), strict=True))
    return [[by_block.get(block, group[0])] for block, group in enumerate(groups)]


def _looped(model: Transformer, groups: list[list[int]], sources: list[list[int]]) -> Transformer:
    """The model with a block for each group: what is indexed by the loop comes from the layers of the group, what is
    shared from the first source."""
    places = {layer: (block, loop) for block, group in enumerate(groups) for loop, layer in enumerate(group)}
    structure = model.structure.replace(
        blocks=tuple(model.structure.blocks[group[0]].replace(loops=len(group)) for group in groups),
        schedule=tuple(
            Step(block=places[step.block][0], loop=places[step.block][1], origin=step.origin)
            for step in model.structure.schedule
        ),
    )
    old = model.state_dict()
    result = rebuilt(model, structure, {block: source[0] for block, source in enumerate(sources)})
    state = result.state_dict()
    for block, group in enumerate(groups):
        for loop, layer in enumerate(group):
            for name in list(state):
                if re.fullmatch(rf"blocks\.{block}\..*\.{loop}", name):
                    own = name.removeprefix(f"blocks.{block}.").removesuffix(f".{loop}")
                    state[name].copy_(old[f"blocks.{layer}.{own}.0"])
    return result


def _with_own_parts(spec: BlockSpec, own: PerLoopSpec) -> BlockSpec:
    """Parts and gains of each loop's own; gains that were folded into weights come back as ones."""
    spec = relaxed(spec, own, NAME)
    return spec.replace(mixer_norm=with_gains(spec.mixer_norm), ffn_norm=with_gains(spec.ffn_norm))
