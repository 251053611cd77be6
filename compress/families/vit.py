"""Vision transformers of Hugging Face: ViT, DeiT (with and without the distillation head), DINOv2 (with and without
registers) and BEiT; and what to do with a ViT-MAE.

D hidden size, P patches, S prefix tokens.
"""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor

from compress.families.family import Checkpoint, labels_of, reads
from compress.families.vision import (
    Names,
    Patches,
    block,
    embedding,
    gives_vectors,
    layer,
    patches_of,
    task_of,
)
from compress.model.biases.grid import GridBiasSpec
from compress.model.block import BlockSpec
from compress.model.embeds.patch import PatchEmbedSpec
from compress.model.heads.classifier import ClassifierSpec
from compress.model.heads.embedding import ImageEmbeddingSpec
from compress.model.mixers.softmax_attention import SoftmaxAttentionSpec
from compress.model.norms import NormSpec
from compress.model.pooling import Pool
from compress.model.structure import Step, Structure
from targets.errors import InputError

_VIT = Names(
    norms=("layernorm_before", "layernorm_after"),
    output="attention.output.dense",
    ffn=("intermediate.dense", "output.dense"),
    scales=("lambda_1", "lambda_2"),
    query="attention.attention.query",
    key="attention.attention.key",
    value="attention.attention.value",
)
_DINO = Names(
    norms=("norm1", "norm2"),
    output="attention.output.dense",
    ffn=("mlp.fc1", "mlp.fc2"),
    scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
    gated=("mlp.weights_in", "mlp.weights_out"),
    query="attention.attention.query",
    key="attention.attention.key",
    value="attention.attention.value",
)
_NAMES = {
    "vit": _VIT,
    "deit": _VIT,
    "beit": _VIT,
    "dpt": _VIT,
    "audio-spectrogram-transformer": _VIT,
    "dinov2": _DINO,
    "dinov2_with_registers": _DINO,
}

#: Options that the weights show.
_SHOWN = (
    "qkv_bias",
    "intermediate_size",
    "layerscale_value",
    "layer_scale_init_value",
    "use_absolute_position_embeddings",
)
Head = ClassifierSpec | ImageEmbeddingSpec


@reads("vit", "deit", "beit", "dinov2", "dinov2_with_registers")
def read_vit(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """Layer scale (DINOv2, BEiT) is folded into the maps before it, and position embeddings of another image size are
    interpolated once, as the original does at every call."""
    body, kind = _body_prefix(checkpoint), str(checkpoint.config["model_type"])
    patches, norm = patches_of(checkpoint), NormSpec(eps=checkpoint.number("layer_norm_eps"))
    embed, state = vit_embedding(checkpoint, f"{body}embeddings.", patches)
    head, head_state = _head(checkpoint, embed, norm)
    final = None if isinstance(head, ClassifierSpec) and head.pool_norm is not None else norm
    blocks, of_blocks = vit_blocks(checkpoint, body, norm)
    state |= of_blocks
    if kind == "beit":
        blocks = [
            one.replace(mixer=_biased(checkpoint, body, index, one.mixer, patches, state))
            for index, one in enumerate(blocks)
        ]
    state |= head_state
    if final is not None:
        state |= {f"final_norm.{part}.0": checkpoint.tensor(f"{body}layernorm.{part}") for part in ("weight", "bias")}
    structure = Structure(
        task=task_of(checkpoint),
        hidden_size=checkpoint.integer("hidden_size"),
        embed=embed,
        blocks=tuple(blocks),
        schedule=tuple(Step(block=index, origin=index) for index in range(len(blocks))),
        final_norm=final,
        head=head,
        labels=labels_of(checkpoint, head.num_labels) if isinstance(head, ClassifierSpec) else (),
        preprocessing=checkpoint.preprocessing,
    )
    return structure, state


def vit_blocks(checkpoint: Checkpoint, body: str, norm: NormSpec) -> tuple[list[BlockSpec], dict[str, Tensor]]:
    """The layers of the body whose tensors begin with `body`, and their weights."""
    layers, heads = checkpoint.integer("num_hidden_layers"), checkpoint.integer("num_attention_heads")
    for option in _SHOWN:
        checkpoint.config.get(option)
    gated, size = checkpoint.flag("use_swiglu_ffn", False), _inner(checkpoint)
    names, state = _NAMES[str(checkpoint.config["model_type"])], dict[str, Tensor]()
    for index in range(layers):
        state |= layer(checkpoint, f"{body}encoder.layer.{index}.", f"blocks.{index}.", names, gated)
    activation, inner = checkpoint.option("hidden_act", "gelu"), None if gated else size
    blocks = [
        block(checkpoint, state, f"blocks.{index}.", heads=heads, norm=norm, activation=activation, size=inner)
        for index in range(layers)
    ]
    return blocks, state


@reads("vit_mae")
def refuse_vit_mae(checkpoint: Checkpoint) -> NoReturn:
    """Its encoder alone is a ViT. Raises InputError that says how to have it read as one."""
    raise InputError(
        f"{checkpoint.folder}/config.json: what a vit_mae answers hangs on noise that hides patches; to use its "
        'encoder set model_type to "vit" and architectures to ["ViTModel"]'
    )


def _inner(checkpoint: Checkpoint) -> int:
    """Size of the feed-forward; DINOv2 says it by a ratio, whatever else its config holds."""
    ratio = checkpoint.config.get("mlp_ratio")
    return int(checkpoint.integer("hidden_size") * ratio) if ratio else checkpoint.integer("intermediate_size")


def _body_prefix(checkpoint: Checkpoint) -> str:
    prefix = f"{checkpoint.config['model_type']}."
    if gives_vectors(checkpoint) and "embeddings.cls_token" in checkpoint:
        return ""
    if f"{prefix}embeddings.cls_token" not in checkpoint.tensors:
        raise InputError(
            f"{checkpoint.folder}: the weights lack '{prefix}embeddings.cls_token'; "
            f"expected a checkpoint saved from a ...ForImageClassification class"
        )
    return prefix


def vit_embedding(checkpoint: Checkpoint, source: str, patches: Patches) -> tuple[PatchEmbedSpec, dict[str, Tensor]]:
    """Embedding and weights of the body whose tensors begin with `source`. Registers have no positions."""
    width, (old, _) = checkpoint.integer("hidden_size"), patches.grids
    names = [name for name in ("cls_token", "distillation_token") if f"{source}{name}" in checkpoint.tensors]
    prefix_1SD = torch.cat([checkpoint.tensor(f"{source}{name}", (1, 1, width)) for name in names], dim=1)
    if f"{source}position_embeddings" not in checkpoint and checkpoint.config["model_type"] == "beit":
        return embedding(checkpoint, patches, f"{source}patch_embeddings.projection", prefix_1SD, None)
    positions = (1, len(names) + old[0] * old[1], width)
    position_1ND = checkpoint.tensor(f"{source}position_embeddings", positions)
    if f"{source}register_tokens" in checkpoint:
        registers = checkpoint.integer("num_register_tokens", 4)
        register_1RD = checkpoint.tensor(f"{source}register_tokens", (1, registers, width))
        prefix_1SD = torch.cat([prefix_1SD, register_1RD], dim=1)
        placed = [position_1ND[:, : len(names)], torch.zeros_like(register_1RD), position_1ND[:, len(names) :]]
        position_1ND = torch.cat(placed, dim=1)
    projection, antialias = f"{source}patch_embeddings.projection", f"{source}register_tokens" in checkpoint
    mode = "bilinear" if checkpoint.config["model_type"] == "dpt" else "bicubic"
    return embedding(checkpoint, patches, projection, prefix_1SD, position_1ND, antialias=antialias, mode=mode)


def _biased(
    checkpoint: Checkpoint, body: str, index: int, mixer: object, patches: Patches, state: dict[str, Tensor]
) -> SoftmaxAttentionSpec:
    """BEiT's biases of where patches lie to each other, of the layer or of all layers."""
    assert isinstance(mixer, SoftmaxAttentionSpec)
    own, shared = (checkpoint.flag(f"use_{name}relative_position_bias", False) for name in ("", "shared_"))
    if not own and not shared:
        return mixer
    old, new = patches.grids
    if old != new:
        raise InputError(
            f"{checkpoint.folder}: images of {patches.image} where biases are of {patches.trained} are not supported; "
            "prepare images of that size"
        )
    spec = GridBiasSpec(rows=new[0], columns=new[1])
    of_layer = f"{body}encoder.layer.{index}.attention.attention."
    source = of_layer if own else f"{body}encoder."
    table = checkpoint.tensor(
        f"{source}relative_position_bias.relative_position_bias_table", (spec.entries, mixer.scores.num_heads)
    )
    state[f"blocks.{index}.mixer.bias.table"] = table.clone()
    return mixer.replace(bias=spec)


def _head(checkpoint: Checkpoint, embed: PatchEmbedSpec, norm: NormSpec) -> tuple[Head, dict[str, Tensor]]:
    """The classifier, or for a bare body its class token."""
    tensors, kind = checkpoint.tensors, checkpoint.config["model_type"]
    if gives_vectors(checkpoint):
        if kind == "beit" and checkpoint.config.get("use_mean_pooling", True):
            raise InputError(f"{checkpoint.folder}: a BEiT without its classifier is not supported")
        return ImageEmbeddingSpec(), {}
    if "distillation_classifier.weight" in tensors:  # DeiT averages the logits of its two heads
        shape = checkpoint.matrix("cls_classifier.weight").shape
        weights = [checkpoint.tensor(f"{name}_classifier.weight", shape) / 2 for name in ("cls", "distillation")]
        biases = [checkpoint.tensor(f"{name}_classifier.bias", shape[:1]) / 2 for name in ("cls", "distillation")]
        spec = ClassifierSpec(num_labels=shape[0], pools=("cls", "distillation"))
        return spec, {"head.output.weight": torch.cat(weights, dim=1), "head.output.bias.0": biases[0] + biases[1]}
    weight_CD = checkpoint.matrix("classifier.weight")
    state = {"head.output.weight": weight_CD, "head.output.bias.0": checkpoint.tensor("classifier.bias")}
    pools: tuple[Pool, ...] = ("cls",)
    if kind in ("dinov2", "dinov2_with_registers"):
        pools = ("cls", "patch-mean")
    elif checkpoint.config.get("use_mean_pooling", kind == "beit"):
        pools = ("patch-mean",)
    spec = ClassifierSpec(num_labels=weight_CD.shape[0], pools=pools)
    if "patch-mean" not in pools:
        return spec, state
    if kind == "deit":
        raise InputError(f"{checkpoint.folder}: mean pooling beside a distillation token is not supported")
    spec = spec.replace(prefix=embed.prefix_tokens)
    if kind != "beit":
        return spec, state
    return spec.replace(pool_norm=norm), state | checkpoint.norm("beit.pooler.layernorm", "head.pool_norm")
