"""DINOv3 of vision transformers: patches that turn by where they lie, registers, keys without biases."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from compress.families.family import Checkpoint, reads
from compress.families.vision import Names, Patches, block, embedding, gives_vectors, layer, patches_of, task_of
from compress.model.heads.embedding import ImageEmbeddingSpec
from compress.model.norms import NormSpec
from compress.model.rope import GridRopeSpec
from compress.model.structure import Step, Structure
from targets.errors import InputError

_NAMES = Names(
    norms=("norm1", "norm2"),
    query="attention.q_proj",
    key="attention.k_proj",
    value="attention.v_proj",
    output="attention.o_proj",
    ffn=("mlp.up_proj", "mlp.down_proj"),
    scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
)
#: Options that the weights show, and those that only training reads.
_LEFT = ("layerscale_value", "key_bias", "query_bias", "value_bias", "proj_bias", "mlp_bias")

_TRAINING = ("pos_embed_shift", "pos_embed_jitter", "pos_embed_rescale")


@reads("dinov3_vit")
def read_dinov3(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """The vector is the class token. A gated feed-forward (the largest sizes) is refused."""
    if not gives_vectors(checkpoint) or checkpoint.flag("use_gated_mlp", False):
        raise InputError(f"{checkpoint.folder}/config.json: only DINOv3ViTModel without gated feed-forwards is read")
    for option in (*_LEFT, *_TRAINING):
        checkpoint.config.get(option)
    patches, norm = patches_of(checkpoint), NormSpec(eps=checkpoint.number("layer_norm_eps", 1e-5))
    width, registers = checkpoint.integer("hidden_size"), checkpoint.integer("num_register_tokens", 0, least=0)
    prefix_1SD = checkpoint.tensor("embeddings.cls_token", (1, 1, width))
    if "embeddings.register_tokens" in checkpoint:
        register_1RD = checkpoint.tensor("embeddings.register_tokens", (1, registers, width))
        prefix_1SD = torch.cat([prefix_1SD, register_1RD], dim=1)
    embed, state = embedding(checkpoint, patches, "embeddings.patch_embeddings", prefix_1SD, None)
    layers, heads = checkpoint.integer("num_hidden_layers"), checkpoint.integer("num_attention_heads")
    body = "model.layer." if any(name.startswith("model.layer.") for name in checkpoint.tensors) else "layer."
    for index in range(layers):
        state |= layer(checkpoint, f"{body}{index}.", f"blocks.{index}.", _NAMES)
    state |= checkpoint.norm("norm", "final_norm")
    activation, size = checkpoint.option("hidden_act", "gelu"), checkpoint.integer("intermediate_size")
    rope = _rope(checkpoint, patches, width // heads, 1 + registers)
    blocks = [
        block(
            checkpoint, state, f"blocks.{index}.", heads=heads, norm=norm, activation=activation, size=size, rope=rope
        )
        for index in range(layers)
    ]
    structure = Structure(
        task=task_of(checkpoint),
        hidden_size=width,
        embed=embed,
        blocks=tuple(blocks),
        schedule=tuple(Step(block=index, origin=index) for index in range(layers)),
        final_norm=norm,
        head=ImageEmbeddingSpec(),
        labels=(),
        preprocessing=checkpoint.preprocessing,
    )
    return structure, state


def _rope(checkpoint: Checkpoint, patches: Patches, head_dim: int, prefix: int) -> GridRopeSpec:
    """Centres of patches from -1 to 1, full turns at the lowest frequency."""
    if head_dim % 4:
        raise InputError(f"{checkpoint.folder}/config.json: heads of {head_dim} numbers do not turn in two directions")
    theta = checkpoint.number("rope_theta", 100.0)
    frequencies = 1 / theta ** torch.arange(0, 1, 4 / head_dim, dtype=torch.float32)

    def centres(count: int) -> tuple[float, ...]:
        places = 2 * (torch.arange(0.5, count, dtype=torch.float32) / count) - 1
        return tuple((2 * math.pi * places).tolist())

    (_, (rows, columns)) = patches.grids
    return GridRopeSpec(
        row_places=centres(rows),
        column_places=centres(columns),
        frequencies=tuple(frequencies.tolist()),
        prefix=prefix,
    )
