"""Static embeddings (StaticEmbedding of sentence-transformers, model2vec): the mean of the rows of a text's words.

There are no blocks at all: the other end of the scale to hold a compressed encoder against.
"""

from __future__ import annotations

from torch import Tensor

from compress.families.checkpoint import Checkpoint
from compress.families.family import reads
from compress.families.sentence import sentence_head
from compress.families.text import structure_of, task_of
from compress.model.embeds.token import TokenEmbedSpec
from compress.model.structure import Structure


@reads("static-embedding", classes=("staticembedding",))
def read_static_embedding(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """`compress.zoo.static` writes such folders of those that people have."""
    words, width = checkpoint.integer("vocab_size"), checkpoint.integer("hidden_size")
    head, state = sentence_head(checkpoint)
    structure = structure_of(
        checkpoint,
        task=task_of(checkpoint, "vector")[0],
        head=head,
        hidden_size=width,
        embed=TokenEmbedSpec(vocab_size=words),
        blocks=(),
        final_norm=None,
    )
    return structure, state | {"embed.table": checkpoint.tensor("embedding.weight", (words, width))}
