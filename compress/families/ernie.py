"""ERNIE: BERT with a row for the task that a text is for, of which the original takes the first if it is not told."""

from __future__ import annotations

from torch import Tensor

from compress.families.bert import norm_of, read_encoder
from compress.families.family import Checkpoint, reads
from compress.families.masked import bert_masked_head
from compress.families.text import prefix_of
from compress.model.structure import Structure


@reads("ernie")
def read_ernie(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """The row of the task is folded into the rows of token types."""
    body = prefix_of(checkpoint, "ernie")
    table, activation = f"{body}embeddings.word_embeddings.weight", checkpoint.option("hidden_act", "gelu")
    masked = bert_masked_head(table, norm_of(checkpoint), activation)
    structure, state = read_encoder(checkpoint, body, f"{body}pooler.dense", "classifier", masked=masked)
    checkpoint.config.get("task_type_vocab_size")  # read off the weights
    if checkpoint.flag("use_task_id", False):
        rows = checkpoint.matrix(f"{body}embeddings.task_type_embeddings.weight")
        state["embed.token_type"] = state["embed.token_type"] + rows[0]
    return structure, state
