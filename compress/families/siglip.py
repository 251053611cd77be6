"""SigLIP: its image tower without a class token (as a classifier the mean of all patches, as an embedding pooled by
attention), alone or with the text tower."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.families.family import Checkpoint, labels_of, reads, stacked
from compress.families.options import check_options
from compress.families.text import prefix_of
from compress.families.towers import part, text_tower, two_towers
from compress.families.vision import TOWER, block, embedding, gives_vectors, has_classes, layer, patches_of, task_of
from compress.model.ffns.mlp import MlpSpec
from compress.model.heads.attention_pool import AttentionPoolSpec
from compress.model.heads.classifier import ClassifierSpec
from compress.model.heads.embedding import ImageEmbeddingSpec
from compress.model.heads.two_towers import TwoTowersSpec
from compress.model.norms import NormSpec
from compress.model.structure import Step, Structure
from targets.errors import InputError

Head = ClassifierSpec | ImageEmbeddingSpec | TwoTowersSpec

#: What the config of a tower may leave out, as in transformers.
_VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16,
}
_TEXT = {
    **{name: value for name, value in _VISION.items() if name not in ("image_size", "patch_size")},
    "vocab_size": 32000,
    "max_position_embeddings": 64,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}


@reads("siglip_vision_model", classes=("siglipvision",))
def read_siglip_vision(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """The vector is what the head that pools by attention gives."""
    if not gives_vectors(checkpoint) or not checkpoint.flag("vision_use_head", True):
        raise InputError(f"{checkpoint.folder}/config.json: only SiglipVisionModel with its pooling head is read")
    body = prefix_of(checkpoint, "vision_model")
    spec, state = attention_pool(checkpoint, f"{body}head.", "head.attention.")
    return _tower(checkpoint, checkpoint, body, ImageEmbeddingSpec(attention=spec), state)


@reads("siglip")
def read_siglip(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """Both towers, or a classifier, which uses neither the text tower nor the head that pools by attention."""
    vision = part(checkpoint, "vision_config", "siglip_vision_model", _VISION)
    checkpoint.config.get("text_config")
    vision.config.get("vision_use_head")  # a classifier has none, and two towers always have it
    if has_classes(checkpoint):
        read = _tower(checkpoint, vision, "vision_model.", *_classifier(checkpoint))
    else:
        read = _both(checkpoint, vision)
    check_options(vision, lambda line: None)
    return read


def _classifier(checkpoint: Checkpoint) -> tuple[ClassifierSpec, dict[str, Tensor]]:
    weight_CD, bias_C = checkpoint.linear("classifier")
    if bias_C is None:
        raise InputError(f"{checkpoint.folder}: the weights lack 'classifier.bias'")
    unused = ("vision_model.head.", "text_model.")
    checkpoint.used.update(name for name in checkpoint.tensors if name.startswith(unused))
    state = {"head.output.weight": weight_CD, "head.output.bias.0": bias_C}
    return ClassifierSpec(num_labels=len(weight_CD), pools=("mean",)), state


def _both(checkpoint: Checkpoint, vision: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    text = part(checkpoint, "text_config", "siglip_text_model", _TEXT)
    text_spec, text_state = text_tower(text, "text_model.head", causal=False, end=None)
    text.config.get("projection_size")  # read off the weights
    check_options(text, lambda line: None)
    pool, state = attention_pool(vision, "vision_model.head.", "head.image.attention.")
    head, head_state = two_towers(checkpoint, ImageEmbeddingSpec(attention=pool), text_spec)
    return _tower(checkpoint, vision, "vision_model.", head, state | head_state | text_state)


def attention_pool(checkpoint: Checkpoint, source: str, target: str) -> tuple[AttentionPoolSpec, dict[str, Tensor]]:
    """The head that pools by attention. Its query is the same for every image, so query and key maps become one vector
    per head; the keys' biases add the same to all places, which a softmax does not see."""
    width, heads = checkpoint.integer("hidden_size"), checkpoint.integer("num_attention_heads")
    probe_D = checkpoint.tensor(f"{source}probe", (1, 1, width))[0, 0]
    query_DD, key_DD, value_DD = checkpoint.tensor(f"{source}attention.in_proj_weight", (3 * width, width)).chunk(3)
    query_D, _, value_D = checkpoint.tensor(f"{source}attention.in_proj_bias", (3 * width,)).chunk(3)
    asked_HK = (query_DD @ probe_D + query_D).reshape(heads, -1) * (width // heads) ** -0.5
    scores_HD = torch.einsum("hk,hkd->hd", asked_HK, key_DD.reshape(heads, -1, width))
    norm = NormSpec(eps=checkpoint.number("layer_norm_eps", 1e-6))
    size, activation = checkpoint.integer("intermediate_size"), checkpoint.option("hidden_act", "gelu_pytorch_tanh")
    mlp = {"up": checkpoint.linear(f"{source}mlp.fc1"), "down": checkpoint.linear(f"{source}mlp.fc2")}
    state = {
        **stacked(target.removesuffix("."), {"scores": (scores_HD, None), "value": (value_DD, value_D)}),
        **stacked(target.removesuffix("."), {"output": checkpoint.linear(f"{source}attention.out_proj")}),
        **stacked(f"{target}mlp", mlp),
        **checkpoint.norm(f"{source}layernorm", f"{target}norm"),
    }
    mlp_spec = MlpSpec(intermediate_size=size, activation=activation)
    return AttentionPoolSpec(num_heads=heads, mlp=mlp_spec, norm=norm), state


def _tower(
    checkpoint: Checkpoint, vision: Checkpoint, body: str, head: Head, state: dict[str, Tensor]
) -> tuple[Structure, dict[str, Tensor]]:
    """The tower whose config `vision` has, under the `head`, whose weights are in `state`."""
    patches, norm = patches_of(vision), NormSpec(eps=vision.number("layer_norm_eps", 1e-6))
    width, (old, _) = vision.integer("hidden_size"), patches.grids
    position_1ND = vision.tensor(f"{body}embeddings.position_embedding.weight", (old[0] * old[1], width))[None]
    projection = f"{body}embeddings.patch_embedding"
    embed, tower = embedding(vision, patches, projection, torch.zeros(1, 0, width), position_1ND)
    layers, heads = vision.integer("num_hidden_layers"), vision.integer("num_attention_heads")
    for index in range(layers):
        tower |= layer(vision, f"{body}encoder.layers.{index}.", f"blocks.{index}.", TOWER)
    tower |= vision.norm(f"{body}post_layernorm", "final_norm")
    activation = vision.option("hidden_act", "gelu_pytorch_tanh")
    structure = Structure(
        task=task_of(checkpoint),
        hidden_size=width,
        embed=embed,
        blocks=tuple(
            block(vision, tower, f"blocks.{index}.", heads=heads, norm=norm, activation=activation)
            for index in range(layers)
        ),
        schedule=tuple(Step(block=index, origin=index) for index in range(layers)),
        final_norm=norm,
        head=head,
        labels=labels_of(checkpoint, head.num_labels) if isinstance(head, ClassifierSpec) else (),
        preprocessing=checkpoint.preprocessing,
    )
    return structure, tower | state
