"""What CLIP and SigLIP share: a text tower, the scores of images against texts, towers' own configs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from torch import Tensor

from compress.families.checkpoint import Config
from compress.families.family import Checkpoint, stacked
from compress.families.vision import TOWER, block, layer
from compress.model.embeds.token import TokenEmbedSpec
from compress.model.heads.embedding import ImageEmbeddingSpec
from compress.model.heads.text_tower import TextTowerSpec
from compress.model.heads.two_towers import TwoTowersSpec
from compress.model.mixers.softmax_attention import SoftmaxAttentionSpec
from compress.model.norms import NormSpec
from targets.errors import InputError

_BODY = "text_model."


def part(checkpoint: Checkpoint, name: str, model_type: str, defaults: Mapping[str, object]) -> Checkpoint:
    """The checkpoint with the config of one of its towers, which may leave out what transformers has by default. How
    images are prepared is what a tower gets of the `preprocessing`."""
    tower = checkpoint.config.get(name)
    if not isinstance(tower, dict):
        raise InputError(f"{checkpoint.folder}/config.json has no {name}")
    given = {option: value for option, value in tower.items() if value is not None}
    images = checkpoint.preprocessing.get("image", checkpoint.preprocessing)
    return replace(
        checkpoint, config=Config({**defaults, "model_type": model_type, **given}), preprocessing=dict(images)
    )


def text_tower(
    text: Checkpoint, output: str, *, causal: bool, token: Literal["last", "highest", "end"], end: int = 0
) -> tuple[TextTowerSpec, dict[str, Tensor]]:
    """The tower whose config `text` has, with its weights as those of `head.text`. `output`: name of the last map."""
    norm, width = NormSpec(eps=text.number("layer_norm_eps")), text.integer("hidden_size")
    vocabulary, places = text.integer("vocab_size"), text.integer("max_position_embeddings")
    table = text.tensor(f"{_BODY}embeddings.token_embedding.weight", (vocabulary, width))
    position = text.tensor(f"{_BODY}embeddings.position_embedding.weight", (places, width))
    tower = {"embed.table": table, "embed.position": position}
    layers, heads = text.integer("num_hidden_layers"), text.integer("num_attention_heads")
    for index in range(layers):
        tower |= layer(text, f"{_BODY}encoder.layers.{index}.", f"blocks.{index}.", TOWER)
    tower |= text.norm(f"{_BODY}final_layer_norm", "final_norm")
    weight_ED, bias_E = text.linear(output)
    activation, size = text.option("hidden_act"), text.integer("intermediate_size")
    blocks = []
    for index in range(layers):
        one = block(text, tower, f"blocks.{index}.", heads=heads, norm=norm, activation=activation, size=size)
        assert isinstance(one.mixer, SoftmaxAttentionSpec)
        blocks.append(one.replace(mixer=one.mixer.replace(causal=causal)))
    spec = TextTowerSpec(
        hidden_size=width,
        embed=TokenEmbedSpec(vocab_size=vocabulary, max_positions=places),
        blocks=tuple(blocks),
        final_norm=norm,
        size=len(weight_ED),
        bias=bias_E is not None,
        token=token,
        end=end,
    )
    named = {f"head.text.{name}": tensor for name, tensor in tower.items()}
    return spec, named | stacked("head.text", {"output": (weight_ED, bias_E)})


def two_towers(
    checkpoint: Checkpoint, image: ImageEmbeddingSpec, text: TextTowerSpec
) -> tuple[TwoTowersSpec, dict[str, Tensor]]:
    """The head over both, with its scale, which checkpoints keep as a logarithm, and its bias, if there is one."""
    state = {"head.scale": checkpoint.tensor("logit_scale").reshape(1).exp()}
    state["head.bias"] = 0 * state["head.scale"]
    if "logit_bias" in checkpoint:
        state["head.bias"] = checkpoint.tensor("logit_bias").reshape(1)
    return TwoTowersSpec(image=image, size=text.size, text=text), state
