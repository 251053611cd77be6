"""PEGASUS: norms before the halves and behind the last block, positions of sines and cosines."""

from __future__ import annotations

from torch import Tensor

from compress.families.encoder_decoder import read_like_bart
from compress.families.family import Checkpoint, reads
from compress.families.text import refuse
from compress.model.structure import Structure


@reads("pegasus")
def read_pegasus(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    refuse(checkpoint, normalize_before=True, normalize_embedding=False, add_final_layer_norm=True)
    return read_like_bart(checkpoint, pre_norm=True, embed_norm=False, embed={"waves": "even"})
