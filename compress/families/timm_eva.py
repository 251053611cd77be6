"""What timm's EVA and EVA-02 have beside its ViTs: maps with biases of their own names, patches that turn by where they
lie, gated feed-forwards with a norm inside.

D hidden size, F intermediate size, H heads, K head size.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from compress.families.family import Checkpoint, stacked
from compress.families.vision import Map, Patches, parts, scaled
from compress.model.rope import GridRopeSpec
from targets.errors import InputError

#: Models whose norms stand behind the halves, and those whose images have no fixed grid.
_OTHER = re.compile(r"eva\w*_(enormous)")
#: The grid that EVA-02 counts the places of patches on, whatever the image.
_GRID = (16, 16)
#: Arguments that change what the model computes and that the weights do not show -> the value that is read.
ARGUMENTS = {
    "use_post_norm": False,
    "use_pre_transformer_norm": False,
    "rope_type": "cat",
    "rope_grid_offset": 0.0,
    "rope_grid_indexing": "ij",
    "rope_temperature": 10000.0,
    "rope_rotate_half": False,
    "attn_type": "eva",
    "scale_attn_inner": False,
}


def is_eva(name: str) -> bool:
    """Whether an architecture of timm is one of these."""
    return name.startswith(("eva_", "eva02_")) and not _OTHER.match(name)


def rope_of(
    checkpoint: Checkpoint, name: str, arguments: dict[str, Any], patches: Patches, head_dim: int, prefix: int
) -> GridRopeSpec | None:
    """How patches turn; None for EVA, whose patches do not."""
    if not arguments.get("use_rot_pos_emb", name.startswith("eva02_")):
        return None
    if head_dim % 4:
        raise InputError(f"{checkpoint.folder}: heads of {head_dim} numbers do not turn in two directions")
    counts = arguments.get("ref_feat_shape", _GRID) or patches.grids[1]
    counts = [counts] * 2 if isinstance(counts, int) else counts
    if not isinstance(counts, list | tuple) or [type(one) for one in counts] != [int, int] or min(counts) < 1:
        raise InputError(f"{checkpoint.folder}/config.json: model_args ref_feat_shape = {counts!r} is not read")

    def places(patches: int, counted: int) -> tuple[float, ...]:
        return tuple((torch.arange(patches, dtype=torch.float32) / patches * counted).tolist())

    (rows, columns), pairs = patches.grids[1], head_dim // 4
    return GridRopeSpec(
        row_places=places(rows, counts[0]),
        column_places=places(columns, counts[1]),
        frequencies=tuple((1 / 10000.0 ** (torch.arange(pairs, dtype=torch.float32) / pairs)).tolist()),
        prefix=prefix,
    )


def layer(checkpoint: Checkpoint, source: str, heads: int, turned: bool) -> dict[str, Tensor]:
    """The weights of a layer. The pairs of a head that turns stand side by side in the checkpoint, and half a head
    apart in what is returned."""
    if f"{source}attn.norm.weight" in checkpoint:
        raise InputError(f"{checkpoint.folder}: {source}attn.norm, a norm inside the attention, is not read")
    query, key, value = _heads(checkpoint, f"{source}attn.")
    if turned:
        query, key = (_half_split(one, heads) for one in (query, key))
    output = scaled(checkpoint, f"{source}attn.proj", f"{source}gamma_1")
    down = scaled(checkpoint, f"{source}mlp.fc2", f"{source}gamma_2")
    state = {
        **stacked(f"{source}mixer.scores", {"query": query, "key": key}),
        **stacked(f"{source}mixer.values", {"value": value, "output": output}),
        **stacked(f"{source}ffn", {**_up(checkpoint, f"{source}mlp.", len(down[0][0])), "down": down}),
        **checkpoint.norm(f"{source}norm1", f"{source}mixer_norm"),
        **checkpoint.norm(f"{source}norm2", f"{source}ffn_norm"),
    }
    if f"{source}mlp.norm.weight" in checkpoint:
        state |= checkpoint.norm(f"{source}mlp.norm", f"{source}ffn.norm")
    return state


def _heads(checkpoint: Checkpoint, source: str) -> list[Map]:
    """Query, key and value; in one matrix the keys have no biases, and the others have them beside it."""
    if f"{source}qkv.weight" not in checkpoint:
        return [checkpoint.linear(f"{source}{one}_proj") for one in "qkv"]
    maps = parts(checkpoint, f"{source}qkv", 3)
    if f"{source}q_bias" not in checkpoint:
        return maps
    wide = maps[0][0].shape[:1]
    biases = checkpoint.tensor(f"{source}q_bias", wide), None, checkpoint.tensor(f"{source}v_bias", wide)
    return [(weight, bias) for (weight, _), bias in zip(maps, biases, strict=True)]


def _up(checkpoint: Checkpoint, source: str, size: int) -> dict[str, Map]:
    """What leads to the hidden units, of which there are `size`: gate and up in two matrices or in one, or up alone."""
    if f"{source}fc1_g.weight" in checkpoint:
        return {"gate": checkpoint.linear(f"{source}fc1_g"), "up": checkpoint.linear(f"{source}fc1_x")}
    if len(checkpoint.matrix(f"{source}fc1.weight")) == 2 * size:
        gate, up = parts(checkpoint, f"{source}fc1", 2)
        return {"gate": gate, "up": up}
    return {"up": checkpoint.linear(f"{source}fc1")}


def _half_split(one: Map, heads: int) -> Map:
    weight_OI, bias_O = one

    def moved(rows: Tensor) -> Tensor:
        by_pair = rows.reshape(heads, -1, 2, *rows.shape[1:])
        return by_pair.transpose(1, 2).reshape(rows.shape)

    return moved(weight_OI), None if bias_O is None else moved(bias_O)
