"""BART and mBART: learned positions whose table has two rows in front, a norm behind the embedding."""

from __future__ import annotations

from torch import Tensor

from compress.families.encoder_decoder import read_like_bart
from compress.families.family import Checkpoint, reads
from compress.families.text import refuse
from compress.model.structure import Structure

#: Rows of the table of positions before the first place.
_OFFSET = 2


@reads("bart", "mbart")
def read_bart(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """mBART has its norms before the halves and behind the last block. Its classifiers, whose decoder begins with the
    last token of the text, are refused."""
    many = checkpoint.config["model_type"] == "mbart"
    refuse(checkpoint, normalize_before=many, normalize_embedding=True, add_final_layer_norm=many)
    return read_like_bart(checkpoint, pre_norm=many, embed_norm=True, embed={}, learned_from=_OFFSET, classes=not many)
