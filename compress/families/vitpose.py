"""ViTPose: a ViT without a class token, whose patches become a map for each keypoint."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.families.dpt import normed, whole
from compress.families.family import Checkpoint, labels_in, reads
from compress.families.towers import part
from compress.families.vision import Names, block, layer, patches_of, task_of
from compress.model.embeds.patch import PatchEmbedSpec
from compress.model.heads.keypoints import KeypointsSpec
from compress.model.norms import NormSpec
from compress.model.structure import Step, Structure
from targets.errors import InputError

_NAMES = Names(
    norms=("layernorm_before", "layernorm_after"),
    output="attention.output.dense",
    ffn=("mlp.fc1", "mlp.fc2"),
    query="attention.attention.query",
    key="attention.attention.key",
    value="attention.attention.value",
)
#: What transformers has for a backbone whose config leaves it out.
_BODY = {
    "image_size": [256, 192],
    "patch_size": [16, 16],
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "mlp_ratio": 4,
    "layer_norm_eps": 1e-12,
    "num_experts": 1,
}
#: Zeros around an image, as ViTPose was trained.
_PADDING = 2
_LEFT = ("part_features", "qkv_bias", "use_pretrained_backbone", "use_timm_backbone", "backbone_kwargs")


@reads("vitpose")
def read_vitpose(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """What a batch norm does is folded into the map before it."""
    if checkpoint.purpose.head != "keypoints":
        raise InputError(f"{checkpoint.folder}/config.json: of ViTPose only VitPoseForPoseEstimation is read")
    body, prefix = _body(checkpoint), "backbone."
    norm, activation = NormSpec(eps=body.number("layer_norm_eps")), body.option("hidden_act", "gelu")
    layers, heads = body.integer("num_hidden_layers"), body.integer("num_attention_heads")
    embed, state = _embedding(body, f"{prefix}embeddings.")
    for index in range(layers):
        state |= layer(body, f"{prefix}encoder.layer.{index}.", f"blocks.{index}.", _NAMES)
    blocks = [
        block(body, state, f"blocks.{index}.", heads=heads, norm=norm, activation=activation) for index in range(layers)
    ]
    state |= checkpoint.norm(f"{prefix}layernorm", "final_norm")
    head, of_head = _head(checkpoint, embed.grid)
    config = {"id2label": checkpoint.config.get("id2label"), "problem_type": "keypoints"}
    structure = Structure(
        task=task_of(checkpoint),
        hidden_size=body.integer("hidden_size"),
        embed=embed,
        blocks=tuple(blocks),
        schedule=tuple(Step(block=index, origin=index) for index in range(layers)),
        final_norm=norm,
        head=head,
        labels=labels_in(config, checkpoint.folder, head.keypoints, "keypoints"),
        preprocessing=checkpoint.preprocessing,
    )
    return structure, state | of_head


def _body(checkpoint: Checkpoint) -> Checkpoint:
    """The backbone. Raises InputError for one of several experts, or from whose middle the maps are made."""
    body = part(checkpoint, "backbone_config", "vitpose_backbone", _BODY)
    where, kind = f"{checkpoint.folder}/config.json", body.config["model_type"]
    if kind != "vitpose_backbone":
        raise InputError(f"{where}: a backbone of {kind!r} is not supported; allowed: vitpose_backbone")
    if body.integer("num_experts") > 1:
        raise InputError(f"{where}: num_experts: a ViTPose+ with experts for several data sets is not supported")
    layers = body.integer("num_hidden_layers")
    found, names = body.config.get("out_indices"), body.config.get("out_features")
    if found not in (None, [layers], [-1]) or names not in (None, [f"stage{layers}"]):
        raise InputError(f"{where}: out_indices {found or names} are not supported; allowed: the last, [{layers}]")
    for option in _LEFT:
        checkpoint.config.get(option)
        body.config.get(option)
    return body


def _embedding(body: Checkpoint, source: str) -> tuple[PatchEmbedSpec, dict[str, Tensor]]:
    """The position of a class token that is not there is added to that of every patch."""
    patches, width, projection = patches_of(body), body.integer("hidden_size"), f"{source}patch_embeddings.projection"
    if patches.image != patches.trained:
        raise InputError(
            f"{body.folder}: images are prepared as {patches.image}, but config.json has {patches.trained}; make "
            "preprocessor_config.json say the same"
        )
    spec = PatchEmbedSpec(
        channels=body.integer("num_channels", 3),
        image_size=patches.image,
        patch_size=patches.size,
        padding=_PADDING,
        prefix_tokens=0,
        patch_bias=f"{projection}.bias" in body,
    )
    position_1ND = body.tensor(f"{source}position_embeddings", (1, 1 + spec.tokens, width))
    state = {
        "embed.patch.weight": body.tensor(f"{projection}.weight", (width, spec.channels, *patches.size)),
        "embed.prefix": torch.zeros(1, 0, width),
        "embed.position": position_1ND[:, 1:] + position_1ND[:, :1],
    }
    if spec.patch_bias:
        state["embed.patch.bias"] = body.tensor(f"{projection}.bias", (width,))
    return spec, state


def _head(checkpoint: Checkpoint, grid: tuple[int, int]) -> tuple[KeypointsSpec, dict[str, Tensor]]:
    state = whole(checkpoint, "head.conv", "head.output")
    keypoints = len(state["head.output.weight"])
    if checkpoint.flag("use_simple_decoder", True):
        return KeypointsSpec(keypoints=keypoints, grid=grid, scale=checkpoint.integer("scale_factor", 4)), state
    checkpoint.config.get("scale_factor")  # of the simple decoder
    for index in (1, 2):
        weight = checkpoint.tensor(f"head.deconv{index}.weight").transpose(0, 1)
        weight, bias = normed(checkpoint, f"head.batchnorm{index}", weight, weight.new_zeros(len(weight)))
        ours = f"head.larger.{index - 1}."
        state |= {f"{ours}weight": weight.transpose(0, 1).contiguous(), f"{ours}bias": bias}
    channels = len(state["head.larger.0.bias"])
    return KeypointsSpec(keypoints=keypoints, grid=grid, scale=None, channels=channels), state
