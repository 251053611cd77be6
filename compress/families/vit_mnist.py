"""The small ViT for MNIST of the zoo, a third-party checkpoint with the tensor names of its own code.

Its patches are flattened row by row, queries, keys and values come from one matrix without bias.
"""

from __future__ import annotations

from torch import Tensor

from compress.families.family import Checkpoint, labels_of, reads, stacked
from compress.families.vision import task_of
from compress.model.block import BlockSpec
from compress.model.embeds.patch import PatchEmbedSpec
from compress.model.ffns.mlp import MlpSpec
from compress.model.heads.classifier import ClassifierSpec
from compress.model.mixers.softmax_attention import SoftmaxAttentionSpec
from compress.model.norms import NormSpec
from compress.model.scores.projected import ProjectedScoresSpec
from compress.model.structure import Step, Structure
from compress.model.values.projected import ProjectedValuesSpec


@reads("vit-mnist")
def read_vit_mnist(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    integer = checkpoint.integer
    heads, head_dim, patch = integer("heads"), integer("dim_head"), integer("patch_size")
    norm = NormSpec(eps=checkpoint.option("layer_norm_eps"))
    scores = ProjectedScoresSpec(
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        query_bias=False,
        key_bias=False,
    )
    block = BlockSpec(
        mixer=SoftmaxAttentionSpec(
            scores=scores,
            values=ProjectedValuesSpec(num_kv_heads=heads, head_dim=head_dim, value_bias=False),
        ),
        mixer_norm=norm,
        ffn=MlpSpec(intermediate_size=integer("mlp_dim"), activation=checkpoint.option("activation")),
        ffn_norm=norm,
    )
    layers, channels, classes = integer("depth"), integer("channels"), integer("num_labels")
    width = integer("dim")
    weight_DI = checkpoint.tensor("to_patch_embedding.1.weight", (width, channels * patch**2))
    state = {
        # Flattened as (row, column, channel); a convolution wants (channel, row, column).
        "embed.patch.weight": weight_DI.reshape(-1, patch, patch, channels).permute(0, 3, 1, 2),
        "embed.patch.bias": checkpoint.tensor("to_patch_embedding.1.bias"),
        "embed.prefix": checkpoint.tensor("cls_token"),
        "embed.position": checkpoint.tensor("pos_embedding"),
        "final_norm.weight.0": checkpoint.tensor("mlp_head.0.weight"),
        "final_norm.bias.0": checkpoint.tensor("mlp_head.0.bias"),
        "head.output.weight": checkpoint.tensor("mlp_head.1.weight"),
        "head.output.bias.0": checkpoint.tensor("mlp_head.1.bias"),
    }
    for index in range(layers):
        state |= _layer(checkpoint, f"transformer.layers.{index}.", f"blocks.{index}.")
    size = integer("image_size")
    structure = Structure(
        task=task_of(checkpoint),
        hidden_size=width,
        embed=PatchEmbedSpec(channels=channels, image_size=(size, size), patch_size=(patch, patch)),
        blocks=(block,) * layers,
        schedule=tuple(Step(block=index, origin=index) for index in range(layers)),
        final_norm=norm,
        head=ClassifierSpec(num_labels=classes),
        labels=labels_of(checkpoint, classes),
        preprocessing=checkpoint.preprocessing,
    )
    return structure, state


def _layer(checkpoint: Checkpoint, source: str, target: str) -> dict[str, Tensor]:
    def linear(name: str) -> tuple[Tensor, Tensor]:
        return checkpoint.tensor(f"{source}{name}.weight"), checkpoint.tensor(f"{source}{name}.bias")

    query, key, value = checkpoint.tensor(f"{source}0.fn.to_qkv.weight").chunk(3)
    state = {
        f"{target}{norm}.{part}.0": checkpoint.tensor(f"{source}{index}.norm.{part}")
        for index, norm in enumerate(("mixer_norm", "ffn_norm"))
        for part in ("weight", "bias")
    }
    state |= stacked(f"{target}mixer.scores", {"query": (query, None), "key": (key, None)})
    state |= stacked(f"{target}mixer.values", {"value": (value, None), "output": linear("0.fn.to_out.0")})
    state |= stacked(f"{target}ffn", {"up": linear("1.fn.net.0"), "down": linear("1.fn.net.3")})
    return state
