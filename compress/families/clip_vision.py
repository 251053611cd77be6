"""The image tower of CLIP with its projection: a norm before the blocks, the class token."""

from __future__ import annotations

from torch import Tensor

from compress.families.family import Checkpoint, reads, stacked
from compress.families.text import prefix_of
from compress.families.vision import TOWER, block, embedding, gives_vectors, layer, patches_of, task_of
from compress.model.heads.embedding import DenseSpec, ImageEmbeddingSpec
from compress.model.norms import NormSpec
from compress.model.structure import Step, Structure
from targets.errors import InputError

@reads("clip_vision_model", classes=("clipvision",))
def read_clip_vision(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """With a projection the vector is the projected class token; without, the token behind the last norm."""
    if not gives_vectors(checkpoint):
        raise InputError(f"{checkpoint.folder}/config.json: only CLIPVisionModel, with or without projection, is read")
    body, patches = prefix_of(checkpoint, "vision_model"), patches_of(checkpoint)
    norm = NormSpec(eps=checkpoint.number("layer_norm_eps", 1e-5))
    width, (old, _) = checkpoint.integer("hidden_size"), patches.grids
    prefix_1SD = checkpoint.tensor(f"{body}embeddings.class_embedding", (width,))[None, None]
    positions = (1 + old[0] * old[1], width)
    position_1ND = checkpoint.tensor(f"{body}embeddings.position_embedding.weight", positions)[None]
    projection = f"{body}embeddings.patch_embedding"
    embed, state = embedding(checkpoint, patches, projection, prefix_1SD, position_1ND, norm)
    layers, heads = checkpoint.integer("num_hidden_layers"), checkpoint.integer("num_attention_heads")
    for index in range(layers):
        state |= layer(checkpoint, f"{body}encoder.layers.{index}.", f"blocks.{index}.", TOWER)
    state |= checkpoint.norm(f"{body}pre_layrnorm", "embed.norm")
    state |= checkpoint.norm(f"{body}post_layernorm", "final_norm")
    head = ImageEmbeddingSpec()
    if "visual_projection.weight" in checkpoint:
        weight_OD, bias_O = checkpoint.linear("visual_projection")
        head = head.replace(dense=(DenseSpec(size=len(weight_OD), bias=bias_O is not None),))
        state |= stacked("head.dense", {"0": (weight_OD, bias_O)})
    activation, size = checkpoint.option("hidden_act", "quick_gelu"), checkpoint.integer("intermediate_size")
    checkpoint.config.get("projection_dim")  # read off the weights
    structure = Structure(
        task=task_of(checkpoint),
        hidden_size=width,
        embed=embed,
        blocks=tuple(
            block(checkpoint, state, f"blocks.{index}.", heads=heads, norm=norm, activation=activation, size=size)
            for index in range(layers)
        ),
        schedule=tuple(Step(block=index, origin=index) for index in range(layers)),
        final_norm=norm,
        head=head,
        labels=(),
        preprocessing=checkpoint.preprocessing,
    )
    return structure, state
