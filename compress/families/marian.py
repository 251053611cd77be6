"""Marian, the layout of the OPUS-MT translators: norms behind the halves, positions of sines and cosines, scores with
biases."""

from __future__ import annotations

from torch import Tensor

from compress.families.encoder_decoder import read_like_bart
from compress.families.family import Checkpoint, reads
from compress.families.text import refuse
from compress.model.structure import Structure


@reads("marian")
def read_marian(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """Two vocabularies of different sizes are refused."""
    refuse(
        checkpoint,
        normalize_before=False,
        normalize_embedding=False,
        add_final_layer_norm=False,
        decoder_vocab_size=checkpoint.integer("vocab_size"),
    )
    return read_like_bart(checkpoint, pre_norm=False, embed_norm=False, embed={"waves": "even"})
