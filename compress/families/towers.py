"""What CLIP and SigLIP share: a text tower, the scores of images against texts, towers' own configs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

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
_OLD_END = 2


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


def text_body(text: Checkpoint, body: str, *, causal: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Embedding, blocks and last norm of a text tower whose tensors begin with `body`, by the names that specs have
    for them, and the weights. What a config leaves out is as in transformers' CLIP."""
    norm, width = NormSpec(eps=text.number("layer_norm_eps", 1e-5)), text.integer("hidden_size", 512)
    vocabulary, places = text.integer("vocab_size", 49408), text.integer("max_position_embeddings", 77)
    state = {
        "embed.table": text.tensor(f"{body}embeddings.token_embedding.weight", (vocabulary, width)),
        "embed.position": text.tensor(f"{body}embeddings.position_embedding.weight", (places, width)),
        **text.norm(f"{body}final_layer_norm", "final_norm"),
    }
    layers, heads = text.integer("num_hidden_layers", 12), text.integer("num_attention_heads", 8)
    activation, size = text.option("hidden_act", "quick_gelu"), text.integer("intermediate_size", 2048)
    blocks = []
    for index in range(layers):
        name = f"blocks.{index}."
        state |= layer(text, f"{body}encoder.layers.{index}.", name, TOWER)
        one = block(text, state, name, heads=heads, norm=norm, activation=activation, size=size)
        assert isinstance(one.mixer, SoftmaxAttentionSpec)
        blocks.append(one.replace(mixer=one.mixer.replace(causal=causal)))
    embed = TokenEmbedSpec(vocab_size=vocabulary, max_positions=places)
    return {"hidden_size": width, "embed": embed, "blocks": tuple(blocks), "final_norm": norm}, state


def end_of(text: Checkpoint) -> int | Literal["highest"]:
    """The token that ends CLIP's texts. Configs older than the tokens that were added behind it say 2, whatever it is:
    there it is the token of the highest number."""
    end = text.integer("eos_token_id", 49407, least=0)
    return "highest" if end == _OLD_END else end


def text_tower(
    text: Checkpoint, output: str, *, causal: bool, end: int | Literal["highest"] | None
) -> tuple[TextTowerSpec, dict[str, Tensor]]:
    """The tower whose config `text` has, with its weights as those of `head.text`. `output`: name of the last map."""
    parts, tower = text_body(text, _BODY, causal=causal)
    weight_ED, bias_E = text.linear(output)
    spec = TextTowerSpec(**parts, size=len(weight_ED), bias=bias_E is not None, end=end)
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
