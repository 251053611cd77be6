"""CLIP: its image tower (a norm before the blocks, the class token) with its projection, alone or beside the text
tower."""

from __future__ import annotations

from torch import Tensor

from compress.families.family import Checkpoint, labels_of, reads, stacked
from compress.families.options import check_options
from compress.families.text import prefix_of
from compress.families.towers import end_of, part, text_tower, two_towers
from compress.families.vision import TOWER, block, embedding, gives_vectors, has_classes, layer, patches_of, task_of
from compress.model.heads.classifier import ClassifierSpec
from compress.model.heads.embedding import DenseSpec, ImageEmbeddingSpec
from compress.model.heads.two_towers import TwoTowersSpec
from compress.model.norms import NormSpec
from compress.model.structure import Step, Structure
from targets.errors import InputError

Head = ImageEmbeddingSpec | TwoTowersSpec | ClassifierSpec

#: What the config of a tower may leave out, as in transformers.
_VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
}


@reads("clip_vision_model", classes=("clipvision",))
def read_clip_vision(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """With a projection the vector is the projected class token; without, the token behind the last norm."""
    if not gives_vectors(checkpoint):
        raise InputError(f"{checkpoint.folder}/config.json: only CLIPVisionModel, with or without projection, is read")
    head, state = _projected(checkpoint, "head.")
    checkpoint.config.get("projection_dim")  # read off the weights
    return _tower(checkpoint, checkpoint, head, state)


@reads("clip")
def read_clip(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """Both towers, of which rewrites change that of the image; or a classifier, which has no text tower and reads the
    mean of the patches in front of the last norm."""
    vision = part(checkpoint, "vision_config", "clip_vision_model", _VISION)
    if has_classes(checkpoint):
        for option in ("text_config", "projection_dim", "logit_scale_init_value"):
            checkpoint.config.get(option)
        vision.config.get("projection_dim")
        read = _tower(checkpoint, vision, *_classifier(checkpoint))
        check_options(vision, lambda line: None)
        return read
    text = part(checkpoint, "text_config", "clip_text_model", {})
    text_spec, text_state = text_tower(text, "text_projection", causal=True, end=end_of(text))
    image, state = _projected(checkpoint, "head.image.")
    for option in ("projection_dim", "logit_scale_init_value"):
        checkpoint.config.get(option)  # read off the weights
    head, head_state = two_towers(checkpoint, image, text_spec)
    read = _tower(checkpoint, vision, head, state | head_state | text_state)
    for one in (vision, text):
        one.config.get("projection_dim")
        check_options(one, lambda line: None)
    return read


def _classifier(checkpoint: Checkpoint) -> tuple[ClassifierSpec, dict[str, Tensor]]:
    weight_CD, bias_C = checkpoint.linear("classifier")
    unused = ("vision_model.post_layernorm.", "text_model.", "text_projection.", "visual_projection.", "logit_scale")
    checkpoint.used.update(name for name in checkpoint.tensors if name.startswith(unused))
    spec = ClassifierSpec(num_labels=len(weight_CD), pools=("patch-mean",), bias=bias_C is not None)
    return spec, stacked("head", {"output": (weight_CD, bias_C)})


def _projected(checkpoint: Checkpoint, target: str) -> tuple[ImageEmbeddingSpec, dict[str, Tensor]]:
    """The class token, projected where the checkpoint has a projection."""
    if "visual_projection.weight" not in checkpoint:
        return ImageEmbeddingSpec(), {}
    weight_OD, bias_O = checkpoint.linear("visual_projection")
    dense = DenseSpec(size=len(weight_OD), bias=bias_O is not None)
    return ImageEmbeddingSpec(dense=(dense,)), stacked(f"{target}dense", {"0": (weight_OD, bias_O)})


def _tower(
    checkpoint: Checkpoint, vision: Checkpoint, head: Head, head_state: dict[str, Tensor]
) -> tuple[Structure, dict[str, Tensor]]:
    """The tower whose config `vision` has, under the `head`."""
    body, patches = prefix_of(vision, "vision_model"), patches_of(vision)
    norm = NormSpec(eps=vision.number("layer_norm_eps", 1e-5))
    width, (old, _) = vision.integer("hidden_size"), patches.grids
    prefix_1SD = vision.tensor(f"{body}embeddings.class_embedding", (width,))[None, None]
    positions = (1 + old[0] * old[1], width)
    position_1ND = vision.tensor(f"{body}embeddings.position_embedding.weight", positions)[None]
    projection = f"{body}embeddings.patch_embedding"
    embed, state = embedding(vision, patches, projection, prefix_1SD, position_1ND, norm)
    layers, heads = vision.integer("num_hidden_layers"), vision.integer("num_attention_heads")
    for index in range(layers):
        state |= layer(vision, f"{body}encoder.layers.{index}.", f"blocks.{index}.", TOWER)
    state |= vision.norm(f"{body}pre_layrnorm", "embed.norm")
    final = None if isinstance(head, ClassifierSpec) else norm
    if final is not None:
        state |= vision.norm(f"{body}post_layernorm", "final_norm")
    activation, size = vision.option("hidden_act", "quick_gelu"), vision.integer("intermediate_size")
    structure = Structure(
        task=task_of(checkpoint),
        hidden_size=width,
        embed=embed,
        blocks=tuple(
            block(vision, state, f"blocks.{index}.", heads=heads, norm=norm, activation=activation, size=size)
            for index in range(layers)
        ),
        schedule=tuple(Step(block=index, origin=index) for index in range(layers)),
        final_norm=final,
        head=head,
        labels=labels_of(checkpoint, head.num_labels) if isinstance(head, ClassifierSpec) else (),
        preprocessing=checkpoint.preprocessing,
    )
    return structure, state | head_state
