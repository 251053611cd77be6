"""ViT, DeiT, EVA and EVA-02 as timm saves them: `pretrained_cfg` in config.json, tensors by timm's names.

D hidden size, P patches, S prefix tokens.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from compress.families import timm_eva
from compress.families.family import Checkpoint, labels_of, reads
from compress.families.vision import Names, Patches, block, embedding, gives_vectors, layer, task_of
from compress.model.activations import ActivationName
from compress.model.heads.classifier import ClassifierSpec
from compress.model.heads.embedding import ImageEmbeddingSpec
from compress.model.norms import NormSpec
from compress.model.structure import Step, Structure
from targets.errors import InputError

_NAMES = Names(
    norms=("norm1", "norm2"),
    packed="attn.qkv",
    output="attn.proj",
    ffn=("mlp.fc1", "mlp.fc2"),
    scales=("ls1.gamma", "ls2.gamma"),
)
#: Sizes whose heads have 64 numbers, and those that have 16 heads.
_BY_64 = re.compile(r"(vit|deit|deit3|flexivit|eva|eva02)_(tiny|small|medium|betwixt|base|large)(_|$)")
_OF_16 = re.compile(r"(vit|deit3|eva)_(huge|giant|gigantic)(_|$)")
_PREFIX = ("cls_token", "dist_token", "reg_token")
#: Arguments that change what the model computes and that the weights do not show -> the value that is read.
_ARGUMENTS = {"act_layer": "gelu", "norm_layer": "layernorm", "pre_norm": False, "final_norm": True, "qk_norm": False}

Head = ClassifierSpec | ImageEmbeddingSpec


@reads("timm")
def read_timm(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """How many heads there are is said by `model_args` or, for the sizes that everyone uses, by the architecture; all
    else is read off the weights."""
    name, arguments = str(checkpoint.option("architecture")), checkpoint.config.get("model_args") or {}
    _check_kind(checkpoint, name, arguments)
    weight = checkpoint.tensor("patch_embed.proj.weight")
    if weight.ndim != 4:
        raise InputError(f"{checkpoint.folder}: patch_embed.proj.weight is not a convolution")
    width, layers = len(weight), 1 + max(_numbers(checkpoint), default=-1)
    norm, heads = NormSpec(eps=1e-6), _heads(checkpoint, name, arguments, width)
    prefix_1SD = torch.cat([checkpoint.tensor(one) for one in _PREFIX if one in checkpoint], dim=1)
    patches = _patches(checkpoint, (weight.shape[2], weight.shape[3]))
    position_1ND = _positions(checkpoint, patches, prefix_1SD)
    embed, state = embedding(checkpoint, patches, "patch_embed.proj", prefix_1SD, position_1ND)
    head, head_state = _head(checkpoint, prefix_1SD.shape[1], norm)
    rope = None
    if timm_eva.is_eva(name):
        rope = timm_eva.rope_of(checkpoint, name, arguments, patches, width // heads, prefix_1SD.shape[1])
    for index in range(layers):
        of_layer = f"blocks.{index}."
        if timm_eva.is_eva(name):
            state |= timm_eva.layer(checkpoint, of_layer, heads, rope is not None)
        else:
            state |= layer(checkpoint, of_layer, of_layer, _NAMES)
    state |= head_state
    final = None if head.pool_norm is not None else norm
    if final is not None:
        state |= checkpoint.norm("norm", "final_norm")
    activation: ActivationName = "quick_gelu" if "quickgelu" in name else "gelu"
    structure = Structure(
        task=task_of(checkpoint),
        hidden_size=width,
        embed=embed,
        blocks=tuple(
            block(checkpoint, state, f"blocks.{index}.", heads=heads, norm=norm, activation=activation, rope=rope)
            for index in range(layers)
        ),
        schedule=tuple(Step(block=index, origin=index) for index in range(layers)),
        final_norm=final,
        head=head,
        labels=labels_of(checkpoint, head.num_labels) if isinstance(head, ClassifierSpec) else (),
        preprocessing=checkpoint.preprocessing,
    )
    return structure, state


def _check_kind(checkpoint: Checkpoint, name: str, arguments: object) -> None:
    for option in ("pretrained_cfg", "num_features", "num_classes", "label_names", "label_descriptions", "image_size"):
        checkpoint.config.get(option)
    if not isinstance(arguments, dict):
        raise InputError(f"{checkpoint.folder}/config.json: model_args must be an object, not {arguments!r}")
    eva = timm_eva.is_eva(name)
    if "_rope" in name or not (eva or name.startswith(("vit_", "deit"))):
        raise InputError(
            f"{checkpoint.folder}/config.json: architecture {name!r} of timm is not read, only vit, deit, eva and eva02"
        )
    for argument, value in {**_ARGUMENTS, **(timm_eva.ARGUMENTS if eva else {})}.items():
        if arguments.get(argument, value) not in (value, None):
            raise InputError(
                f"{checkpoint.folder}/config.json: model_args {argument} = {arguments[argument]!r} is not read"
            )


def _numbers(checkpoint: Checkpoint) -> set[int]:
    found = (re.match(r"blocks\.(\d+)\.", name) for name in checkpoint.tensors)
    return {int(one[1]) for one in found if one}


def _heads(checkpoint: Checkpoint, name: str, arguments: dict[str, object], width: int) -> int:
    given = arguments.get("num_heads")
    if given is None and _BY_64.match(name):
        given = width // 64
    if given is None and _OF_16.match(name):
        given = 16
    if type(given) is not int or given < 1 or width % given:
        raise InputError(
            f"{checkpoint.folder}/config.json: how many heads {name} has is not known; add num_heads to model_args"
        )
    return given


def _patches(checkpoint: Checkpoint, patch: tuple[int, int]) -> Patches:
    size = checkpoint.preprocessing.get("size") or checkpoint.option("image_size")
    height, width = int(size[0]), int(size[1])
    if height % patch[0] or width % patch[1]:
        raise InputError(f"{checkpoint.folder}: images of {(height, width)} do not divide into patches of {patch}")
    return Patches((height, width), (height, width), patch)


def _positions(checkpoint: Checkpoint, patches: Patches, prefix_1SD: Tensor) -> Tensor:
    """Positions of the prefix, 0 where the checkpoint has none for it, and of the patches."""
    position_1ND, (rows, columns) = checkpoint.tensor("pos_embed"), patches.grids[0]
    tokens, prefix = rows * columns, prefix_1SD.shape[1]
    if position_1ND.ndim == 3 and position_1ND.shape[1] == tokens:
        return torch.cat([torch.zeros_like(prefix_1SD), position_1ND], dim=1)
    if position_1ND.ndim != 3 or position_1ND.shape[1] != tokens + prefix:
        raise InputError(
            f"{checkpoint.folder}: pos_embed has the shape {tuple(position_1ND.shape)}, but images of {patches.image} "
            f"make {tokens} patches behind {prefix} tokens"
        )
    return position_1ND


def _head(checkpoint: Checkpoint, prefix: int, norm: NormSpec) -> tuple[Head, dict[str, Tensor]]:
    """The classifier, or for a folder without classes what it would read."""
    pool = checkpoint.config.get("global_pool", "token")
    normed = "fc_norm.weight" in checkpoint
    pool_norm = norm if normed else None
    if gives_vectors(checkpoint):
        if pool == "avg":
            vector = ImageEmbeddingSpec(pool="patch-mean", prefix=prefix, pool_norm=pool_norm)
            return vector, checkpoint.norm("fc_norm", "head.pool_norm") if normed else {}
        if pool not in ("token", "") or normed:
            raise InputError(
                f"{checkpoint.folder}/config.json: without classes global_pool must be token or avg, not {pool!r}"
            )
        return ImageEmbeddingSpec(), {}
    weight_CD, bias_C = checkpoint.linear("head")
    if bias_C is None:
        raise InputError(f"{checkpoint.folder}: the weights lack 'head.bias'")
    if "head_dist.weight" in checkpoint:  # DeiT averages the logits of its two heads
        other_CD, other_C = checkpoint.tensor("head_dist.weight", weight_CD.shape), checkpoint.tensor("head_dist.bias")
        both = ClassifierSpec(num_labels=len(weight_CD), pools=("cls", "distillation"))
        joined = torch.cat([weight_CD, other_CD], dim=1) / 2
        return both, {"head.output.weight": joined, "head.output.bias.0": (bias_C + other_C) / 2}
    state = {"head.output.weight": weight_CD, "head.output.bias.0": bias_C}
    if pool == "token":
        return ClassifierSpec(num_labels=len(weight_CD)), state
    if pool != "avg":
        raise InputError(
            f"{checkpoint.folder}/config.json: global_pool = {pool!r} is not supported, only token and avg"
        )
    spec = ClassifierSpec(num_labels=len(weight_CD), pools=("patch-mean",), prefix=prefix, pool_norm=pool_norm)
    return spec, state | (checkpoint.norm("fc_norm", "head.pool_norm") if normed else {})
