"""The text tower of CLIP with its projection: blocks that look back, and the token that ends the text."""

from __future__ import annotations

from torch import Tensor

from compress.families.family import Checkpoint, reads, stacked
from compress.families.text import prefix_of, structure_of, task_of
from compress.families.towers import end_of, text_body
from compress.model.heads.embedding import DenseSpec, EmbeddingSpec
from compress.model.structure import Structure


@reads("clip_text_model", classes=("cliptext",))
def read_clip_text(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """With a projection the vector is the projected token at the end; without, that token behind the last norm."""
    task, _ = task_of(checkpoint, "vector")
    parts, state = text_body(checkpoint, prefix_of(checkpoint, "text_model"), causal=True)
    head = EmbeddingSpec(pool="last", normalize=False)
    if "text_projection.weight" in checkpoint:
        weight_OD, bias_O = checkpoint.linear("text_projection")
        head = head.replace(dense=(DenseSpec(size=len(weight_OD), bias=bias_O is not None),))
        state |= stacked("head.dense", {"0": (weight_OD, bias_O)})
    checkpoint.config.get("projection_dim")  # read off the weights
    parts["embed"] = parts["embed"].replace(end=end_of(checkpoint))
    return structure_of(checkpoint, task=task, head=head, **parts), state
