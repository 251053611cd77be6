"""What the rewrites that put something else in place of softmax attention share.

B batch, N tokens (R of them leave the block), D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError, model_validator
from torch import Tensor

from compress.model.block import BlockSpec, Site
from compress.model.cross import Cross
from compress.model.linear.feature import FeatureMapSpec
from compress.model.linear.feature_mixer import FeatureMixer
from compress.model.linear.gated import GatedMixer
from compress.model.mixer import Mixer, MixerSpec
from compress.model.mixers.softmax_attention import SoftmaxAttentionSpec
from compress.model.scores.projected import ProjectedScoresSpec
from compress.model.sequence import Context, Tokens, aligned
from compress.model.transformer import Transformer
from compress.rewrites.calibration import Calibration, original_step, step_of, taps
from compress.rewrites.layers import Layers, resolve
from compress.rewrites.rewrite import Options
from compress.rewrites.surgery import Special, attention_spec, values_spec, with_blocks
from compress.spec import first_cause
from targets.errors import InputError

#: What attention may have that a new mixer takes over with its scores.
CARRIES: frozenset[Special] = frozenset({"norm", "whole-norm"})
#: Makes the spec of the new mixer, sets the new weights of these blocks (`start`), or refuses a block.
Swap = Callable[[SoftmaxAttentionSpec], MixerSpec]
Start = Callable[[Transformer, Transformer, list[int]], None]
Check = Callable[[BlockSpec], object]
#: Which of a block's attentions: to its own tokens, or to an encoder's.
Half = Literal["mixer", "cross"]


_SITES: dict[Half, tuple[Site, Site]] = {"mixer": ("mixer.in", "mixer.out"), "cross": ("cross.in", "cross.out")}


@dataclass(frozen=True)
class MixerSample:
    """What an attention of a block sees of a batch (B,N,D), and what the original's gives (B,R,D). `real_BR`: True
    where a token that is asked for is not padding."""

    x_BND: Tensor
    target_BRD: Tensor
    context: Context
    real_BR: Tensor


def mixer_samples(
    model: Transformer, calibration: Calibration, blocks: list[int], half: Half = "mixer"
) -> Iterator[tuple[dict[str, Tensor], dict[int, MixerSample]]]:
    """For each batch of the calibration its inputs, and what this half of these blocks sees and should give."""
    steps = {block: step_of(model, block) for block in blocks}
    origins = {block: original_step(calibration, model, step) for block, step in steps.items()}
    seen, given = _SITES[half]
    for inputs in calibration.batches():
        mine = taps(model, inputs, {(step, site) for step in steps.values() for site in (seen, given)})
        theirs = taps(calibration.original, inputs, {(origin, given) for origin in origins.values()})
        yield (
            inputs,
            {
                block: _sample(
                    mine[step, seen],
                    mine[step, given],
                    theirs[origins[block], given],
                    model.block(block).leading,
                )
                for block, step in steps.items()
            },
        )


def _sample(seen: Tokens, given: Tokens, theirs: Tokens, rows: int | None) -> MixerSample:
    real_BR = torch.ones_like(given.x_BND[..., 0], dtype=torch.bool) if given.real_BN is None else given.real_BN
    return MixerSample(seen.x_BND, aligned(theirs, given.context), replace(seen.context, rows=rows), real_BR)


def swap_mixers(
    name: str, model: Transformer, layers: Layers, calibration: Calibration, check: Check, swap: Swap, start: Start
) -> Transformer:
    """Put new mixers in place of the chosen layers' attention; queries, keys, values and output keep their weights
    where the new mixer has them. "auto:K" takes the layers whose mixer comes closest to the original's, as it starts.
    """
    return swap_halves(
        name,
        model,
        layers,
        calibration,
        check,
        lambda spec: spec.replace(mixer=swap(attention_spec(spec, name, CARRIES))),
        start,
    )


def swap_halves(
    name: str,
    model: Transformer,
    layers: Layers,
    calibration: Calibration,
    check: Check,
    change: Callable[[BlockSpec], BlockSpec],
    start: Start,
    half: Half = "mixer",
) -> Transformer:
    """`swap_mixers` for either attention of a block, whose spec `change` makes."""
    tried: dict[int, tuple[dict[str, Tensor], float]] = {}  # the new part as it starts, and its error

    def errors(blocks: list[int]) -> dict[int, float]:
        trial = with_blocks(model, change, blocks)
        start(model, trial, blocks)
        found = transfer_errors(model, trial, calibration, blocks, half)
        tried.update({block: (half_of(trial, block, half).state_dict(), found[block]) for block in blocks})
        return found

    blocks = resolve(layers, model, check, errors)
    if not tried:
        errors(blocks)
    result = with_blocks(model, change, blocks)
    for block in blocks:
        state, error = tried[block]
        half_of(result, block, half).load_state_dict(state)
        calibration.note(f"{name}: layer {block} starts with {error:.1%} of its attention's output unexplained")
    return result


def transfer_errors(
    model: Transformer, swapped: Transformer, calibration: Calibration, blocks: list[int], half: Half = "mixer"
) -> dict[int, float]:
    """For each block, the squared error of the new attention on the old model's inputs over the variance of what the
    original's gives, real tokens only."""
    squared = dict.fromkeys(blocks, 0.0)
    sums: dict[int, tuple[int, Tensor, Tensor]] = {}
    for _, samples in mixer_samples(model, calibration, blocks, half):
        for block, sample in samples.items():
            y_BRD = half_of(swapped, block, half)(sample.x_BND, loop_of(model, block), sample.context)
            y_TD = y_BRD[sample.real_BR].double()
            target_TD = sample.target_BRD[sample.real_BR].double()
            squared[block] += float((y_TD - target_TD).square().sum())
            count, total_D, square_D = sums.get(block, (0, target_TD.new_zeros(()), target_TD.new_zeros(())))
            sums[block] = (count + len(target_TD), total_D + target_TD.sum(0), square_D + target_TD.square().sum(0))
    return {
        block: squared[block] / max(float((square_D - total_D.square() / count).sum()), 1e-30)
        for block, (count, total_D, square_D) in sums.items()
    }


def half_of(model: Transformer, block: int, half: Half) -> Mixer | Cross:
    """This attention of a block that has one."""
    part: Mixer | Cross | None = getattr(model.block(block), half)
    assert part is not None
    return part


def mixer_of(model: Transformer, block: int) -> Mixer:
    """The mixer of a block that has one."""
    mixer = model.block(block).mixer
    assert mixer is not None
    return mixer


def loop_of(model: Transformer, block: int) -> int:
    """The loop in which the model first runs this block."""
    return model.structure.schedule[step_of(model, block)].loop


class FeatureOptions(Options):
    """`feature`: a feature map (elu, t2r, hedgehog, performer); `size`: its number of features, the map's own choice
    if not given; `seed`: of its random directions."""

    feature: str = Field(examples=["t2r"])
    size: PositiveInt | None = None
    seed: NonNegativeInt = 0
    layers: Layers = "all"

    @model_validator(mode="after")
    def _feature_is_known(self) -> FeatureOptions:
        try:
            self.feature_map()
        except ValidationError as error:
            raise ValueError(f"feature {self.feature!r}: {first_cause(error)}") from error
        return self

    def feature_map(self) -> FeatureMapSpec:
        """The spec of the chosen map."""
        size = {} if self.size is None else {"size": self.size}
        return FeatureMapSpec.parse({"kind": self.feature, **size})


def balance_of(mixer: SoftmaxAttentionSpec) -> float:
    """What brings queries, which come with the scale in them, and keys to the same size."""
    return mixer.scores.scale**-0.5 if isinstance(mixer.scores, ProjectedScoresSpec) else 1.0


def feature_mixer(kind: str, mixer: SoftmaxAttentionSpec, options: FeatureOptions, **more: Any) -> MixerSpec:
    """The spec of a mixer of this kind with softmax attention's scores and values and the chosen feature map."""
    parts = {"scores": mixer.scores, "values": mixer.values, "feature": options.feature_map()}
    return MixerSpec.parse({"kind": kind, **parts, "balance": balance_of(mixer), **more})


def start_features(calibration: Calibration, seed: int) -> Start:
    """Start the feature map of a new linear attention, show it the keys that it will get, and set its gates."""

    def start(model: Transformer, result: Transformer, blocks: list[int]) -> None:
        waiting: dict[int, FeatureMixer] = {}
        for block in blocks:
            mixer = result.block(block).mixer
            assert isinstance(mixer, FeatureMixer)
            if isinstance(mixer, GatedMixer):
                mixer.start()
            mixer.feature.initialize(torch.Generator().manual_seed(seed + block))
            if mixer.feature.bounded:
                waiting[block] = mixer
        if not waiting:
            return
        for _, samples in mixer_samples(model, calibration, list(waiting)):
            for block, mixer in waiting.items():
                sample = samples[block]
                _, k_BGNK = mixer.balanced(sample.x_BND, loop_of(model, block), sample.context)
                mixer.feature.see_keys(k_BGNK)

    return start


def check_heads(spec: BlockSpec, name: str) -> None:
    """Raises InputError for what is not softmax attention of projected values with as many heads as the keys have."""
    values, scores = values_spec(spec, name, CARRIES), attention_spec(spec, name, CARRIES).scores
    if scores.key_heads != values.num_kv_heads:
        raise InputError(
            f"{name} is refused: a chosen layer has {scores.key_heads} key heads but {values.num_kv_heads} value "
            f"heads; no head would have a sum of its own"
        )


def check_decoder(spec: BlockSpec, name: str) -> None:
    """`check_heads`; raises InputError for a layer that looks ahead, too."""
    check_heads(spec, name)
    if not attention_spec(spec, name, CARRIES).causal:
        raise InputError(f"{name} is refused for a layer that looks ahead: its state holds what came before")
