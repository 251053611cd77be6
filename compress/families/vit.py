"""Vision transformers of Hugging Face: ViT, DeiT (with and without the distillation head) and DINOv2.

D hidden size, P patches, S prefix tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from compress import tasks
from compress.families.family import Checkpoint, labels_of, reads, stacked
from compress.model.block import BlockSpec
from compress.model.embeds.patch import PatchEmbedSpec
from compress.model.ffns.mlp import MlpSpec
from compress.model.heads.classifier import ClassifierSpec
from compress.model.mixers.softmax_attention import SoftmaxAttentionSpec
from compress.model.norms import NormSpec
from compress.model.pooling import Pool
from compress.model.scores.projected import ProjectedScoresSpec
from compress.model.structure import Step, Structure
from compress.model.values.projected import ProjectedValuesSpec
from targets.errors import InputError


@reads("vit", "deit", "dinov2")
def read_vit(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """Layer scale (DINOv2) is folded into the projections before it, and position embeddings of another image
    size are interpolated once, as the original does at every call."""
    body = _body_prefix(checkpoint)
    embed, state = _embedding(checkpoint, f"{body}embeddings.")
    head, head_state = _head(checkpoint, embed)
    layers = checkpoint.integer("num_hidden_layers")
    for index in range(layers):
        state |= _layer(checkpoint, f"{body}encoder.layer.{index}.", f"blocks.{index}.")
    state |= head_state
    state |= {
        "final_norm.weight.0": checkpoint.tensor(f"{body}layernorm.weight"),
        "final_norm.bias.0": checkpoint.tensor(f"{body}layernorm.bias"),
    }
    structure = Structure(
        task=tasks.of_folder(checkpoint.folder).name,
        hidden_size=checkpoint.integer("hidden_size"),
        embed=embed,
        blocks=(_block_spec(checkpoint),) * layers,
        schedule=tuple(Step(block=index, origin=index) for index in range(layers)),
        final_norm=_norm_spec(checkpoint),
        head=head,
        labels=labels_of(checkpoint, head.num_labels),
        preprocessing=checkpoint.preprocessing,
    )
    return structure, state


def _body_prefix(checkpoint: Checkpoint) -> str:
    prefix = f"{checkpoint.config['model_type']}."
    if f"{prefix}embeddings.cls_token" not in checkpoint.tensors:
        raise InputError(
            f"{checkpoint.folder}: the weights lack '{prefix}embeddings.cls_token'; "
            f"expected a checkpoint saved from a ...ForImageClassification class"
        )
    return prefix


def _norm_spec(checkpoint: Checkpoint) -> NormSpec:
    return NormSpec(eps=checkpoint.option("layer_norm_eps"))


def _block_spec(checkpoint: Checkpoint) -> BlockSpec:
    hidden_size, heads = checkpoint.integer("hidden_size"), checkpoint.integer("num_attention_heads")
    if hidden_size % heads:
        raise InputError(f"{checkpoint.folder}/config.json: hidden_size {hidden_size} is no multiple of {heads} heads")
    if checkpoint.config.get("use_swiglu_ffn"):
        raise InputError(f"{checkpoint.folder}: DINOv2 with a SwiGLU feed-forward is not supported")
    head_dim, bias = hidden_size // heads, bool(checkpoint.option("qkv_bias", True))
    scores = ProjectedScoresSpec(
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        query_bias=bias,
        key_bias=bias,
    )
    values = ProjectedValuesSpec(num_kv_heads=heads, head_dim=head_dim, value_bias=bias)
    ratio = checkpoint.config.get("mlp_ratio")  # DINOv2 says it this way, whatever else its config holds
    intermediate_size = hidden_size * ratio if ratio else checkpoint.integer("intermediate_size")
    return BlockSpec(
        mixer=SoftmaxAttentionSpec(scores=scores, values=values),
        mixer_norm=_norm_spec(checkpoint),
        ffn=MlpSpec(intermediate_size=int(intermediate_size), activation=checkpoint.option("hidden_act", "gelu")),
        ffn_norm=_norm_spec(checkpoint),
    )


def _layer(checkpoint: Checkpoint, source: str, target: str) -> dict[str, Tensor]:
    tensors = checkpoint.tensors

    def linear(name: str, scale: str | None = None) -> tuple[Tensor, Tensor | None]:
        weight_OI = checkpoint.tensor(f"{source}{name}.weight")
        has_bias = f"{source}{name}.bias" in tensors
        bias_O = checkpoint.tensor(f"{source}{name}.bias", weight_OI.shape[:1]) if has_bias else None
        if scale is None or f"{source}{scale}" not in tensors:
            return weight_OI, bias_O
        gain_O = checkpoint.tensor(f"{source}{scale}", weight_OI.shape[:1])
        return weight_OI * gain_O[:, None], None if bias_O is None else bias_O * gain_O

    is_dino = f"{source}norm1.weight" in tensors
    norms = {
        "mixer_norm": "norm1" if is_dino else "layernorm_before",
        "ffn_norm": "norm2" if is_dino else "layernorm_after",
    }
    state = {
        f"{target}{norm}.{part}.0": checkpoint.tensor(f"{source}{name}.{part}")
        for norm, name in norms.items()
        for part in ("weight", "bias")
    }
    attention = "attention.attention."
    state |= stacked(
        f"{target}mixer.scores",
        {"query": linear(f"{attention}query"), "key": linear(f"{attention}key")},
    )
    state |= stacked(
        f"{target}mixer.values",
        {
            "value": linear(f"{attention}value"),
            "output": linear("attention.output.dense", "layer_scale1.lambda1"),
        },
    )
    mlp = ("mlp.fc1", "mlp.fc2") if is_dino else ("intermediate.dense", "output.dense")
    state |= stacked(f"{target}ffn", {"up": linear(mlp[0]), "down": linear(mlp[1], "layer_scale2.lambda1")})
    return state


def _pair(checkpoint: Checkpoint, name: str) -> tuple[int, int]:
    """Height and width that the config gives as one number or two."""
    value = checkpoint.option(name)
    if not isinstance(value, list):
        return (checkpoint.integer(name),) * 2
    if len(value) != 2 or any(type(side) is not int or side < 1 for side in value):
        raise InputError(f"{checkpoint.folder}/config.json: {name} must be one or two positive numbers, not {value!r}")
    return value[0], value[1]


def _embedding(checkpoint: Checkpoint, source: str) -> tuple[PatchEmbedSpec, dict[str, Tensor]]:
    width = checkpoint.integer("hidden_size")
    names = [name for name in ("cls_token", "distillation_token") if f"{source}{name}" in checkpoint.tensors]
    prefix_1SD = torch.cat([checkpoint.tensor(f"{source}{name}", (1, 1, width)) for name in names], dim=1)
    patch, trained_size = _pair(checkpoint, "patch_size"), _pair(checkpoint, "image_size")
    rows, columns = checkpoint.preprocessing.get("size") or trained_size
    size = int(rows), int(columns)
    if size[0] % patch[0] or size[1] % patch[1]:
        raise InputError(f"{checkpoint.folder}: images of {size} do not divide into patches of {patch}")
    spec = PatchEmbedSpec(
        channels=checkpoint.integer("num_channels", 3),
        image_size=size,
        patch_size=patch,
        prefix_tokens=len(names),
    )
    old, new = ((side[0] // patch[0], side[1] // patch[1]) for side in (trained_size, size))
    positions = (1, len(names) + old[0] * old[1], width)
    position_1ND = checkpoint.tensor(f"{source}position_embeddings", positions)
    return spec, {
        "embed.patch.weight": checkpoint.tensor(f"{source}patch_embeddings.projection.weight"),
        "embed.patch.bias": checkpoint.tensor(f"{source}patch_embeddings.projection.bias"),
        "embed.prefix": prefix_1SD,
        "embed.position": _resampled(position_1ND, len(names), old, new),
    }


def _resampled(position_1ND: Tensor, prefix: int, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Position embeddings of another grid of patches, by bicubic interpolation; the prefix keeps its own."""
    if old == new:
        return position_1ND
    patches_1PD = position_1ND[:, prefix:]
    grid_1DYX = patches_1PD.reshape(1, *old, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(grid_1DYX, size=new, mode="bicubic", align_corners=False)
    return torch.cat([position_1ND[:, :prefix], resized.flatten(2).transpose(1, 2)], dim=1)


def _head(checkpoint: Checkpoint, embed: PatchEmbedSpec) -> tuple[ClassifierSpec, dict[str, Tensor]]:
    tensors = checkpoint.tensors
    if "distillation_classifier.weight" in tensors:  # DeiT averages the logits of its two heads
        shape = checkpoint.tensor("cls_classifier.weight").shape
        weights = [checkpoint.tensor(f"{name}_classifier.weight", shape) / 2 for name in ("cls", "distillation")]
        biases = [checkpoint.tensor(f"{name}_classifier.bias", shape[:1]) / 2 for name in ("cls", "distillation")]
        spec = ClassifierSpec(num_labels=shape[0], pools=("cls", "distillation"))
        return spec, {"head.output.weight": torch.cat(weights, dim=1), "head.output.bias.0": biases[0] + biases[1]}
    pools: tuple[Pool, ...] = ("cls",)
    if checkpoint.config["model_type"] == "dinov2":
        pools = ("cls", "patch-mean")
    elif checkpoint.config.get("use_mean_pooling"):
        pools = ("patch-mean",)
    if "patch-mean" in pools and embed.prefix_tokens != 1:
        raise InputError(f"{checkpoint.folder}: mean pooling beside a distillation token is not supported")
    weight_CD = checkpoint.tensor("classifier.weight")
    spec = ClassifierSpec(num_labels=weight_CD.shape[0], pools=pools)
    return spec, {"head.output.weight": weight_CD, "head.output.bias.0": checkpoint.tensor("classifier.bias")}
