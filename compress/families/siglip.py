"""SigLIP as a classifier of images: no class token, the mean of all patches."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from compress.families.checkpoint import Config
from compress.families.family import Checkpoint, labels_of, reads
from compress.families.options import check_options
from compress.families.vision import Names, block, embedding, layer, patches_of, task_of
from compress.model.heads.classifier import ClassifierSpec
from compress.model.norms import NormSpec
from compress.model.structure import Step, Structure
from targets.errors import InputError

_NAMES = Names(
    norms=("layer_norm1", "layer_norm2"),
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    output="self_attn.out_proj",
    ffn=("mlp.fc1", "mlp.fc2"),
)


@reads("siglip")
def read_siglip(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """The text tower, and the head that pools by attention, are not used by the classifier."""
    vision, body = _vision(checkpoint), "vision_model."
    patches, norm = patches_of(vision), NormSpec(eps=vision.number("layer_norm_eps", 1e-6))
    width, (old, _) = vision.integer("hidden_size"), patches.grids
    position_1ND = vision.tensor(f"{body}embeddings.position_embedding.weight", (old[0] * old[1], width))[None]
    projection = f"{body}embeddings.patch_embedding"
    embed, state = embedding(vision, patches, projection, torch.zeros(1, 0, width), position_1ND)
    layers, heads = vision.integer("num_hidden_layers"), vision.integer("num_attention_heads")
    for index in range(layers):
        state |= layer(vision, f"{body}encoder.layers.{index}.", f"blocks.{index}.", _NAMES)
    activation = vision.option("hidden_act", "gelu_pytorch_tanh")
    weight_CD, bias_C = checkpoint.linear("classifier")
    if bias_C is None:
        raise InputError(f"{checkpoint.folder}: the weights lack 'classifier.bias'")
    state |= {"head.output.weight": weight_CD, "head.output.bias.0": bias_C}
    state |= vision.norm(f"{body}post_layernorm", "final_norm")
    vision.used.update(name for name in checkpoint.tensors if name.startswith((f"{body}head.", "text_model.")))
    structure = Structure(
        task=task_of(checkpoint),
        hidden_size=width,
        embed=embed,
        blocks=tuple(
            block(vision, state, f"blocks.{index}.", heads=heads, norm=norm, activation=activation)
            for index in range(layers)
        ),
        schedule=tuple(Step(block=index, origin=index) for index in range(layers)),
        final_norm=norm,
        head=ClassifierSpec(num_labels=len(weight_CD), pools=("mean",)),
        labels=labels_of(checkpoint, len(weight_CD)),
        preprocessing=checkpoint.preprocessing,
    )
    check_options(vision, lambda line: None)
    return structure, state


def _vision(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with the config of its vision tower."""
    tower = checkpoint.config.get("vision_config")
    if not isinstance(tower, dict):
        raise InputError(f"{checkpoint.folder}/config.json has no vision_config")
    checkpoint.config.get("text_config")
    tower = {"model_type": "siglip_vision_model", **tower}
    return replace(checkpoint, config=Config({**tower, "vision_use_head": None}))
