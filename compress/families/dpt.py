"""Models that answer for each pixel: Depth Anything (1 and 2) on DINOv2, and DPT on its own ViT or on DINOv2, for depth
and for classes. What leaves several layers of the body goes to DPT's neck and head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor

from compress.families.family import Checkpoint, labels_in, reads, stacked
from compress.families.towers import part
from compress.families.vision import patches_of, task_of
from compress.families.vit import vit_blocks, vit_embedding
from compress.model.heads.depth import DepthSpec
from compress.model.heads.neck import LevelSpec, NeckSpec
from compress.model.heads.segmentation import SegmentationSpec
from compress.model.norms import NormSpec
from compress.model.structure import Step, Structure
from targets.errors import InputError

#: What transformers has for a DINOv2 whose config leaves it out.
_DINO = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "mlp_ratio": 4,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "image_size": 224,
    "patch_size": 14,
    "apply_layernorm": True,
}
_FACTORS = (4, 2, 1, 0.5)
#: Options that the weights show, and those of another body.
_LEFT = (
    "reassemble_hidden_size",
    "head_hidden_size",
    "use_bias_in_fusion_residual",
    "backbone_featmap_shape",
    "neck_ignore_stages",
    "pooler_output_size",
    "pooler_act",
    "use_pretrained_backbone",
    "use_timm_backbone",
    "backbone_kwargs",
)
#: In a DPT on a body of its own these describe that body; on another one nothing.
_OF_BODY = (
    "hidden_size",
    "hidden_act",
    "num_hidden_layers",
    "num_attention_heads",
    "num_channels",
    "intermediate_size",
    "image_size",
    "layer_norm_eps",
    "patch_size",
    "qkv_bias",
    "backbone_out_indices",
)
Levels = tuple[LevelSpec, ...]
#: From the settings of a neck to the head on it and what its own weights are.
Answer = Callable[[dict[str, Any]], tuple[NeckSpec, dict[str, Tensor]]]


@reads("depth_anything")
def read_depth_anything(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """Metric depth is a share of `max_depth`, relative depth any number from 0 on (times `max_depth`, as transformers
    has it)."""
    _check(checkpoint, "depth")
    body = _dino(checkpoint)
    patch, kind = body.config["patch_size"], checkpoint.option("depth_estimation_type", "relative")
    if checkpoint.option("patch_size", 14) != patch:
        raise InputError(f"{checkpoint.folder}/config.json: patch_size is not the backbone's, {patch}; make them equal")
    if kind not in ("relative", "metric"):
        raise InputError(
            f"{checkpoint.folder}/config.json: depth_estimation_type is {kind!r}; allowed: relative, metric"
        )
    most = checkpoint.number("max_depth", 1)
    size, names, metric = patches_of(body).image, ("conv1", "conv2", "conv3"), kind == "metric"

    def depth(neck: dict[str, Any]) -> tuple[NeckSpec, dict[str, Tensor]]:
        weights = _convolutions(checkpoint, names, 1.0 if metric else most)
        hidden = len(weights["head.second.weight"])
        return DepthSpec(**neck, hidden=hidden, size=size, most=most if metric else None), weights

    return _read(checkpoint, body, "backbone.", _out_indices(body), depth)


@reads("dpt")
def read_dpt(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """A norm behind the last layer of its own ViT is not on the way to the answer."""
    _check(checkpoint, "depth", "pixel-classes")
    if checkpoint.flag("is_hybrid", False):
        raise InputError(f"{checkpoint.folder}/config.json: is_hybrid: a DPT on a convolutional body is not supported")
    readout = checkpoint.option("readout_type", "project")
    if readout not in ("ignore", "add", "project"):
        raise InputError(f"{checkpoint.folder}/config.json: readout_type is {readout!r}; allowed: ignore, add, project")
    own = checkpoint.config.get("backbone_config") is None
    if own:
        found = checkpoint.option("backbone_out_indices", [2, 5, 8, 11])
        taps = [one if type(one) is int else -1 for one in found] if isinstance(found, list) else []
        unused = ("dpt.layernorm.", "dpt.pooler.")
        checkpoint.used.update(name for name in checkpoint.tensors if name.startswith(unused))
        body, prefix = checkpoint, "dpt."
    else:
        for option in _OF_BODY:
            checkpoint.config.get(option)
        body, prefix = _dino(checkpoint), "backbone."
        taps = _out_indices(body)
    answer = _classes if checkpoint.purpose.head == "pixel-classes" else _depth
    return _read(checkpoint, body, prefix, taps, lambda neck: answer(checkpoint, neck), readout, normed=not own)


def _depth(checkpoint: Checkpoint, neck: dict[str, Any]) -> tuple[DepthSpec, dict[str, Tensor]]:
    weights = _convolutions(checkpoint, ("head.0", "head.2", "head.4"))
    projection = checkpoint.flag("add_projection", False)
    if projection:
        weights |= whole(checkpoint, "head.projection", "head.projection")
    return DepthSpec(**neck, hidden=len(weights["head.second.weight"]), projection=projection), weights


def _classes(checkpoint: Checkpoint, neck: dict[str, Any]) -> tuple[SegmentationSpec, dict[str, Tensor]]:
    weight = checkpoint.tensor("head.head.0.weight")
    weight, bias = normed(checkpoint, "head.head.1", weight, weight.new_zeros(len(weight)))
    weights = {"head.first.weight": weight, "head.first.bias": bias}
    weights |= whole(checkpoint, "head.head.4", "head.output")
    checkpoint.config.get("add_projection")  # of depth alone
    return SegmentationSpec(**neck, num_labels=len(weights["head.output.weight"])), weights


def _check(checkpoint: Checkpoint, *heads: str) -> None:
    if checkpoint.purpose.head not in heads:
        kind = "DepthAnything" if checkpoint.config["model_type"] == "depth_anything" else "DPT"
        also = f" and {kind}ForSemanticSegmentation are" if len(heads) > 1 else " is"
        raise InputError(f"{checkpoint.folder}/config.json: of {kind} only {kind}ForDepthEstimation{also} read")
    for option in _LEFT:
        checkpoint.config.get(option)


def _dino(checkpoint: Checkpoint) -> Checkpoint:
    body = part(checkpoint, "backbone_config", "dinov2", _DINO)
    kind = body.config["model_type"]
    if kind != "dinov2":
        raise InputError(f"{checkpoint.folder}/config.json: a backbone of {kind!r} is not supported; allowed: dinov2")
    return body


def _out_indices(body: Checkpoint) -> list[int]:
    """The layers whose tokens are read, from 0; -1 for what is none. The config counts the embedding as 0."""
    layers, found = body.integer("num_hidden_layers"), body.config.get("out_indices")
    if found is None:
        names = body.config.get("out_features") or [f"stage{layers}"]
        found = [int(name.removeprefix("stage")) if name.removeprefix("stage").isdigit() else 0 for name in names]
    counted = [one if type(one) is int else 0 for one in found]
    return [(one if one >= 0 else layers + 1 + one) - 1 for one in counted]


def _read(
    checkpoint: Checkpoint,
    body: Checkpoint,
    prefix: str,
    taps: Sequence[int],
    answer: Answer,
    readout: Literal["ignore", "add", "project"] = "ignore",
    normed: bool = True,
) -> tuple[Structure, dict[str, Tensor]]:
    patches, norm = patches_of(body), NormSpec(eps=body.number("layer_norm_eps", 1e-12))
    embed, state = vit_embedding(body, f"{prefix}embeddings.", patches)
    blocks, of_blocks = vit_blocks(body, prefix, norm)
    state |= of_blocks
    final = normed and body.flag("apply_layernorm", True)
    if final:
        state |= checkpoint.norm(f"{prefix}layernorm", "final_norm")
    checkpoint.used.update(name for name in checkpoint.tensors if name.startswith(f"{prefix}layernorm."))
    levels = _levels(checkpoint)
    if len(taps) != len(levels) or any(not 0 <= tap < len(blocks) for tap in taps) or list(taps) != sorted(set(taps)):
        raise InputError(
            f"{checkpoint.folder}/config.json: the neck reads {len(levels)} layers of 1 to {len(blocks)} in order, but "
            f"out_indices name {[tap + 1 for tap in taps]}; put the original's back"
        )
    if checkpoint.option("head_in_index", -1) not in (-1, len(levels) - 1):
        raise InputError(f"{checkpoint.folder}/config.json: head_in_index is not the last, -1: not supported")
    neck = {
        "taps": tuple(taps),
        "levels": levels,
        "grid": patches.grids[1],
        "prefix": embed.prefix_tokens,
        "readout": readout,
        "activation": checkpoint.option("hidden_act", "gelu") if readout == "project" else "gelu",
        "fusion": checkpoint.integer("fusion_hidden_size"),
    }
    head, weights = answer(neck)
    weights |= _neck(checkpoint, levels, readout == "project")
    structure = Structure(
        task=task_of(checkpoint),
        hidden_size=body.integer("hidden_size"),
        embed=embed,
        blocks=tuple(blocks),
        schedule=tuple(Step(block=index, origin=index) for index in range(len(blocks))),
        final_norm=norm if final else None,
        head=head,
        labels=_labels(checkpoint, head),
        preprocessing=checkpoint.preprocessing,
    )
    return structure, state | weights


def _labels(checkpoint: Checkpoint, head: NeckSpec) -> tuple[str, ...]:
    if not isinstance(head, SegmentationSpec):
        return ()
    config = {"id2label": checkpoint.config.get("id2label"), "problem_type": "pixels"}
    return labels_in(config, checkpoint.folder, head.num_labels, "pixels")


def _levels(checkpoint: Checkpoint) -> Levels:
    """Channels and sizes of the pictures. Raises InputError for a factor that makes no whole steps."""
    factors, sizes = checkpoint.option("reassemble_factors", list(_FACTORS)), checkpoint.option("neck_hidden_sizes")
    levels = []
    for channels, factor in zip(sizes, factors, strict=False):
        up = int(factor) if isinstance(factor, int | float) and factor >= 1 else 1
        down = int(1 / factor) if isinstance(factor, int | float) and 0 < factor < 1 else 1
        if factor not in (up, 1 / down):
            raise InputError(
                f"{checkpoint.folder}/config.json: a reassemble factor of {factor!r} is not supported; allowed: whole "
                "numbers, and 1 divided by one"
            )
        levels.append(LevelSpec(channels=channels, up=up, down=down))
    return tuple(levels)


def _neck(checkpoint: Checkpoint, levels: Levels, reads_first: bool) -> dict[str, Tensor]:
    state = dict[str, Tensor]()
    for index, level in enumerate(levels):
        ours, theirs = f"head.levels.{index}.", f"neck.reassemble_stage.layers.{index}."
        if reads_first:
            name = f"neck.reassemble_stage.readout_projects.{index}.0"
            state |= stacked(ours.removesuffix("."), {"readout": checkpoint.linear(name)})
        state |= whole(checkpoint, f"{theirs}projection", f"{ours}channels")
        if level.up > 1 or level.down > 1:
            state |= whole(checkpoint, f"{theirs}resize", f"{ours}resize")
        state[f"{ours}fusion.weight"] = checkpoint.tensor(f"neck.convs.{index}.weight")
        ours, theirs = f"head.fusions.{index}.", f"neck.fusion_stage.layers.{index}."
        halves: tuple[Literal["before", "behind"], ...] = ("before", "behind") if index else ("behind",)
        for half in halves:
            source = f"{theirs}residual_layer{1 if half == 'before' else 2}."
            for number, name in ((1, "first"), (2, "second")):
                state |= _residual(checkpoint, source, number, f"{ours}{half}.{name}")
        state |= whole(checkpoint, f"{theirs}projection", f"{ours}output")
    unused = "neck.fusion_stage.layers.0.residual_layer1."  # the smallest picture has nothing to be added to
    checkpoint.used.update(name for name in checkpoint.tensors if name.startswith(unused))
    return state


def _convolutions(checkpoint: Checkpoint, names: tuple[str, str, str], scale: float = 1.0) -> dict[str, Tensor]:
    """The three last ones of a depth estimator. `scale`: of what the last one gives."""
    state = dict[str, Tensor]()
    for ours, theirs in zip(("first", "second", "output"), names, strict=True):
        state |= whole(checkpoint, f"head.{theirs}", f"head.{ours}")
    return state | {name: state[name] * scale for name in ("head.output.weight", "head.output.bias")}


def whole(checkpoint: Checkpoint, source: str, target: str) -> dict[str, Tensor]:
    """Weight and bias of a convolution."""
    return {f"{target}.{one}": checkpoint.tensor(f"{source}.{one}") for one in ("weight", "bias")}


def _residual(checkpoint: Checkpoint, source: str, number: int, target: str) -> dict[str, Tensor]:
    """A convolution; a batch norm behind it is folded into it."""
    name, norm = f"{source}convolution{number}", f"{source}batch_norm{number}"
    weight = checkpoint.tensor(f"{name}.weight")
    bias = checkpoint.tensor(f"{name}.bias") if f"{name}.bias" in checkpoint else weight.new_zeros(len(weight))
    if checkpoint.flag("use_batch_norm_in_fusion_residual", False):
        weight, bias = normed(checkpoint, norm, weight, bias)
    return {f"{target}.weight": weight, f"{target}.bias": bias}


def normed(checkpoint: Checkpoint, norm: str, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """A convolution and the batch norm behind it as one."""
    gain, offset, mean, variance = (
        checkpoint.tensor(f"{norm}.{one}") for one in ("weight", "bias", "running_mean", "running_var")
    )
    factor = gain / (variance + 1e-5).sqrt()
    return weight * factor[:, None, None, None], (bias - mean) * factor + offset
