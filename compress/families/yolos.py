"""YOLOS: a plain vision transformer that finds objects with tokens of its own behind the patches.

D hidden size, P patches, Q detection tokens, N = 1 + P + Q.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compress.families.family import Checkpoint, labels_in, reads, stacked
from compress.families.vision import Names, block, embedding, layer, patches_of, resampled, task_of
from compress.model.heads.boxes import BoxesSpec
from compress.model.norms import NormSpec
from compress.model.structure import Step, Structure
from targets.errors import InputError

_NAMES = Names(
    norms=("layernorm_before", "layernorm_after"),
    output="attention.output.dense",
    ffn=("intermediate.dense", "output.dense"),
    query="attention.attention.query",
    key="attention.attention.key",
    value="attention.attention.value",
)
_LAYERS = 3
#: The positions of later layers, as the hub has them and as transformers names them.
_MIDDLE = ("vit.encoder.mid_position_embeddings", "vit.encoder.interpolation.mid_position_embeddings")
#: Options that the weights show, and what training weighs.
_LEFT = ("qkv_bias", "class_cost", "bbox_cost", "giou_cost", "eos_coefficient")


@reads("yolos")
def read_yolos(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """The detection tokens go before the patches, which changes nothing but their place. Positions of another image
    size are interpolated once, as the original does at every call."""
    if checkpoint.purpose.head != "boxes":
        raise InputError(f"{checkpoint.folder}/config.json: of YOLOS only YolosForObjectDetection is read")
    for option in _LEFT:
        checkpoint.config.get(option)
    patches, norm = patches_of(checkpoint), NormSpec(eps=checkpoint.number("layer_norm_eps", 1e-12))
    width, queries = checkpoint.integer("hidden_size"), checkpoint.integer("num_detection_tokens")
    layers, heads = checkpoint.integer("num_hidden_layers"), checkpoint.integer("num_attention_heads")
    tokens, prefix = 1 + patches.grids[0][0] * patches.grids[0][1] + queries, 1 + queries

    def placed(position_1ND: Tensor) -> Tensor:
        """Positions in the order of the tokens here, at the size of the image at hand."""
        first, found = position_1ND[:, :1], position_1ND[:, -queries:]
        ordered = torch.cat([first, found, position_1ND[:, 1:-queries]], dim=1)
        return resampled(ordered, prefix, *patches.grids, antialias=False)

    body = "vit.embeddings."
    prefix_1SD = torch.cat(
        [
            checkpoint.tensor(f"{body}cls_token", (1, 1, width)),
            checkpoint.tensor(f"{body}detection_tokens", (1, queries, width)),
        ],
        dim=1,
    )
    projection = f"{body}patch_embeddings.projection"
    embed, state = embedding(checkpoint, patches, projection, prefix_1SD, None)
    embed = embed.replace(positions=True)
    state["embed.position"] = placed(checkpoint.tensor(f"{body}position_embeddings", (1, tokens, width)))
    for index in range(layers):
        state |= layer(checkpoint, f"vit.encoder.layer.{index}.", f"blocks.{index}.", _NAMES)
    middle = checkpoint.flag("use_mid_position_embeddings", True) and layers > 1
    if middle:
        name = next((one for one in _MIDDLE if one in checkpoint), _MIDDLE[0])
        of_layers = checkpoint.tensor(name, (layers - 1, 1, tokens, width))
        state |= {f"blocks.{index + 1}.position": placed(one) for index, one in enumerate(of_layers)}
    activation, size = checkpoint.option("hidden_act", "gelu"), checkpoint.integer("intermediate_size")
    blocks = [
        block(checkpoint, state, f"blocks.{index}.", heads=heads, norm=norm, activation=activation, size=size)
        for index in range(layers)
    ]
    if middle:
        blocks[1:] = [one.replace(positions=embed.tokens) for one in blocks[1:]]
    state |= checkpoint.norm("vit.layernorm", "final_norm")
    for ours, theirs in (("classes", "class_labels_classifier"), ("places", "bbox_predictor")):
        maps = {str(index): checkpoint.linear(f"{theirs}.layers.{index}") for index in range(_LAYERS)}
        state |= stacked(f"head.{ours}", maps)
    classes = len(state[f"head.classes.{_LAYERS - 1}.weight"]) - 1
    structure = Structure(
        task=task_of(checkpoint),
        hidden_size=width,
        embed=embed,
        blocks=tuple(blocks),
        schedule=tuple(Step(block=index, origin=index) for index in range(layers)),
        final_norm=norm,
        head=BoxesSpec(num_labels=classes, queries=queries),
        labels=labels_in(
            {"id2label": checkpoint.config.get("id2label"), "problem_type": "boxes"},
            checkpoint.folder,
            classes,
            "boxes",
        ),
        preprocessing=checkpoint.preprocessing,
    )
    return structure, state
