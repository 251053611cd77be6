"""ELECTRA: BERT whose embedding may be narrower than its blocks."""

from __future__ import annotations

from torch import Tensor

from compress.families.bert import norm_of, read_encoder
from compress.families.each_token import TokenHead
from compress.families.family import Checkpoint, reads
from compress.families.masked import MaskedHead
from compress.families.text import prefix_of
from compress.model.structure import Structure


@reads("electra")
def read_electra(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    body = prefix_of(checkpoint, "electra")
    masked = MaskedHead(
        table=f"{body}embeddings.word_embeddings.weight",
        dense="generator_predictions.dense",
        norm="generator_predictions.LayerNorm",
        norm_spec=norm_of(checkpoint),
        output="generator_lm_head",
    )
    replaced = TokenHead(
        "discriminator_predictions.dense_prediction",
        hidden="discriminator_predictions.dense",
        activation=checkpoint.option("hidden_act", "gelu"),
    )
    return read_encoder(
        checkpoint,
        body,
        "classifier.dense",
        "classifier.out_proj",
        activation="gelu",
        masked=masked,
        tokens={"replaced-token": replaced},
    )
