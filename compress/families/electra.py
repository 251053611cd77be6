"""ELECTRA: BERT whose embedding may be narrower than its blocks."""

from __future__ import annotations

from torch import Tensor

from compress.families.bert import read_encoder
from compress.families.family import Checkpoint, reads
from compress.families.text import prefix_of
from compress.model.structure import Structure


@reads("electra")
def read_electra(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    body = prefix_of(checkpoint, "electra")
    return read_encoder(checkpoint, body, "classifier.dense", "classifier.out_proj", activation="gelu")
